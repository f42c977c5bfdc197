# build.mk - the C core's tests, without Python. Included by the Makefile, or used alone from
# the repository's root: make -f csrc/build.mk test-c [TESTS="test_os test_lock"]
#
# Everything goes to build/c/<flavour>/. A flavour is a compiler and its flags: native, asan, windows.

comma := ,
# What stands where decides what it is part of, here as in tools/native.py: every C file under csrc is the
# core's, but those of the preload library and those whose names begin with another system's.
CORE_ALL := $(sort $(shell find csrc -name '*.c' -not -path 'csrc/preload/*'))
system_files = $(foreach file,$(CORE_ALL),$(if $(filter $(1),$(notdir $(file))),$(file)))
CORE_LINUX := $(filter-out $(call system_files,windows%.c fake%.c),$(CORE_ALL))
CORE_WINDOWS := $(filter-out $(call system_files,linux%.c fake%.c),$(CORE_ALL))

TESTS_ALL := $(filter-out test_main,$(patsubst tests/c/%.c,%,$(sort $(wildcard tests/c/test_*.c))))
# What one system only has is tested there only.
TESTS ?= $(filter-out test_os_windows,$(TESTS_ALL))
TESTS_WINDOWS := $(filter-out %_linux,$(TESTS)) test_os_windows
TEST_SUPPORT := csrc/os/fake.c csrc/os/fake_world.c tests/c/test_main.c

C_WARNINGS := -Wall -Wextra -Wshadow -Wconversion
C_COMMON := -std=c11 $(C_WARNINGS) -Icsrc/include -Icsrc -MMD -MP
# make coverage sets it to -O0: counters of code as it is written.
C_OPTIMIZE ?= -O1
C_TEST_FLAGS := $(C_COMMON) $(C_OPTIMIZE) -g -fno-omit-frame-pointer -DDMI_DEBUG=1

MINGW ?= x86_64-w64-mingw32-gcc
WINE ?= $(firstword $(wildcard /usr/lib/wine/wine64 /usr/bin/wine64 /usr/bin/wine))
WINESERVER ?= $(firstword $(wildcard /usr/lib/wine/wineserver64 /usr/bin/wineserver) true)
WINDOWS_LIBS := -lsynchronization

# $(1) flavour, $(2) compiler, $(3) flags, $(4) core sources, $(5) link flags, $(6) program suffix,
# $(7) tests
define flavour
$(1)_CORE := $$(patsubst %.c,build/c/$(1)/%.o,$(4))
$(1)_SUPPORT := $$(patsubst %.c,build/c/$(1)/%.o,$(TEST_SUPPORT))
$(1)_PROGRAMS := $$(patsubst %,build/c/$(1)/%$(6),$(7))
build/c/$(1)/%.o: %.c
	@mkdir -p $$(dir $$@)
	$(2) $(3) -c $$< -o $$@
build/c/$(1)/libcore.a: $$($(1)_CORE)
	rm -f $$@
	$$(AR) rcs $$@ $$^
$$($(1)_PROGRAMS): build/c/$(1)/%$(6): build/c/$(1)/tests/c/%.o $$($(1)_SUPPORT) \
		build/c/$(1)/libcore.a
	$(2) $(3) $$^ $(5) -o $$@
.SECONDARY: $$($(1)_CORE) $$($(1)_SUPPORT)
-include $$(patsubst %.o,%.d,$$($(1)_CORE) $$($(1)_SUPPORT)) $$(patsubst %,build/c/$(1)/tests/c/%.d,$(7))
endef

$(eval $(call flavour,native,$(CC),$(C_TEST_FLAGS) -pthread,$(CORE_LINUX),-pthread,,$(TESTS)))
$(eval $(call flavour,asan,$(CC),$(C_TEST_FLAGS) -pthread -fsanitize=address$(comma)undefined \
	-fno-sanitize-recover=undefined,$(CORE_LINUX),-pthread,,$(TESTS)))
$(eval $(call flavour,windows,$(MINGW),$(C_TEST_FLAGS) -D__USE_MINGW_ANSI_STDIO=1,$(CORE_WINDOWS),\
	-static $(WINDOWS_LIBS),.exe,$(TESTS_WINDOWS)))

# Another processor, simulated: what is compiled for it and how it answers, but not its memory order.
AARCH64 ?= aarch64-linux-gnu-gcc
QEMU ?= qemu-aarch64-static -L /usr/aarch64-linux-gnu
$(eval $(call flavour,aarch64,$(AARCH64),$(C_TEST_FLAGS) -DSIMULATED=1 -pthread,$(CORE_LINUX),-pthread,,$(TESTS)))

# The thread sanitizer is clang's: it knows which intrinsics are compiled in (fast.h).
CLANG ?= clang
$(eval $(call flavour,tsan,$(CLANG),$(C_COMMON) -O1 -g -fno-omit-frame-pointer -DDMI_DEBUG=1 -pthread \
	-fsanitize=thread,$(CORE_LINUX),-pthread,,))

# The stress has a main of its own. STRESS: operations, policy, seed, hardened or profile (tests/c/stress.c).
STRESS ?= 300000
STRESS_LONG ?= 10000000
STRESS_POLICIES := all lazy:delay=0.01 decay:half_life=0.05 eager never lazy:delay=0.01:how=decommit
define stress_program
build/c/$(1)/stress: build/c/$(1)/tests/c/stress.o build/c/$(1)/libcore.a
	$(2) $(3) $$^ -pthread -o $$@
-include build/c/$(1)/tests/c/stress.d
endef
$(eval $(call stress_program,native,$(CC),))
$(eval $(call stress_program,tsan,$(CLANG),-fsanitize=thread))
$(eval $(call stress_program,aarch64,$(AARCH64),))
run_stress = for policy in $(STRESS_POLICIES); do for tier in '' '1 hardened' '1 profile'; do \
	timeout 3600 $(1) $(2) $$policy $$tier || exit 1; done; done

# Hard modes (csrc/heap/tick.c): the stress, and the tests that hold whatever a policy does.
HARD_FAULT := build/c/HARD/test_fault
HARD_INSPECT := build/c/HARD/test_inspect validate_names_a_damaged_tag stats_take_short_structs_and_refuse_bad_ones
HARD_HEAP := build/c/HARD/test_heap the_waterfall_closes_after_every_step_of_a_random_run \
	every_policy_can_follow_every_other_on_a_live_heap aligned_blocks_of_every_power_and_size \
	a_hardened_heap_finds_what_was_written_behind_a_block a_bounded_heap_stays_in_its_bound
define hard_mode
$(eval $(call flavour,$(1),$(CC),$(C_TEST_FLAGS) -pthread -D$(2),$(CORE_LINUX),-pthread,,\
	test_fault test_heap test_inspect))
$(eval $(call stress_program,$(1),$(CC),))
endef
$(eval $(call hard_mode,purge,DMI_HARD_PURGE))
$(eval $(call hard_mode,take,DMI_HARD_TAKE))
run_hard = $(foreach mode,purge take,$(subst /HARD/,/$(mode)/,$(1)) &&) true

# Run the programs side by side, $(3) at a time if that is given, and each even if one fails; the exit status
# tells.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
run_programs = printf '%s\n' $(1) | xargs -P $(or $(3),$(JOBS)) -I PROGRAM sh -c \
	'said=$$(timeout 900 $(2) PROGRAM 2>&1); status=$$?; printf "== %s\n%s\n" PROGRAM "$$said"; \
	test $$status = 0 || { echo "PROGRAM FAILED ($$status)"; exit 1; }'

.PHONY: test-c-hard test-model
test-c-hard: $(purge_PROGRAMS) $(take_PROGRAMS) build/c/purge/stress build/c/take/stress
	@$(call run_hard,$(HARD_HEAP))
	@$(call run_hard,$(HARD_FAULT))
	@$(call run_hard,$(HARD_INSPECT))
	@$(call run_stress,build/c/purge/stress,100000)
	@$(call run_stress,build/c/take/stress,100000)
# Needs spin.
test-model:
	python3 tests/model/run.py

.PHONY: test-c test-c-asan test-c-aarch64 test-c-windows test-stress test-stress-long test-tsan test-tsan-long
.PHONY: programs
programs: $(native_PROGRAMS) build/c/native/stress
test-c: programs
	@$(call run_programs,$(native_PROGRAMS),)
	@timeout 600 build/c/native/stress $(STRESS)
	@timeout 600 build/c/native/stress $(STRESS) all 1 hardened
test-stress: build/c/native/stress
	@$(call run_stress,$<,$(STRESS))
test-stress-long: build/c/native/stress
	@$(call run_stress,$<,$(STRESS_LONG))
# The scavenger may be there when the process ends: that is no leak.
test-tsan: export TSAN_OPTIONS := report_thread_leaks=0:halt_on_error=1
test-tsan: build/c/tsan/stress
	@$(call run_stress,$<,$(STRESS))
test-tsan-long: export TSAN_OPTIONS := report_thread_leaks=0:halt_on_error=1
test-tsan-long: build/c/tsan/stress
	@$(call run_stress,$<,$(STRESS_LONG))
test-c-asan: $(asan_PROGRAMS)
	@export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1; $(call run_programs,$^,)
test-c-aarch64: $(aarch64_PROGRAMS) build/c/aarch64/stress
	@$(call run_programs,$(aarch64_PROGRAMS),$(QEMU))
	@for tier in '' '1 hardened' '1 profile'; do \
		timeout 900 $(QEMU) build/c/aarch64/stress $(STRESS) all $$tier || exit 1; done
# A prefix of its own, so that nobody's Wine settings matter and nothing stays behind.
test-c-windows: $(windows_PROGRAMS)
	@test -n "$(WINE)" || { echo "no wine found"; exit 1; }; \
	prefix=$$(mktemp -d); trap 'WINEPREFIX=$$prefix $(WINESERVER) -k; rm -rf $$prefix' EXIT; \
	export WINEPREFIX=$$prefix WINEDEBUG=-all WINEARCH=win64 DISPLAY=; \
	$(call run_programs,$^,$(WINE),1)

# What stats, walk and find cost, and those beside them (benchmarks/inspect.c). INSPECT: MiB, block, seconds.
INSPECT ?= 1024 64 2
build/c/bench/inspect: benchmarks/inspect.c $(CORE_LINUX) $(shell find csrc -name '*.h')
	@mkdir -p $(dir $@)
	$(CC) -std=gnu11 -O2 -g $(C_WARNINGS) -Icsrc/include -Icsrc benchmarks/inspect.c \
		$(CORE_LINUX) -pthread -o $@
.PHONY: bench-inspect
bench-inspect: build/c/bench/inspect
	$< $(INSPECT)
