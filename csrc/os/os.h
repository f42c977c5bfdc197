/* os.h - floor 1: the operating system as dmi sees it.
 *
 * Four verbs on address ranges, as VirtualAlloc has them: reserve, commit, decommit, release. A fifth, offer, lets the
 * OS take pages when it wants them. The rest of dmi calls os.c, which counts, injects failures for tests, and calls a
 * backend: linux.c, windows.c, or fake.c in tests.
 *
 * A function that can fail returns 0 on success and an errno value on failure. It does not change errno. On failure
 * the range is as it was. Where a function differs, its comment says so.
 * All functions may be called from any thread. None calls malloc, but for thread_exit_arm, thread_start and at_fork,
 * in which the C library may.
 */
#ifndef DMI_OS_H
#define DMI_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A variable of each thread, read by one load even in a library that is loaded late. */
#if defined(_WIN32)
#define DMI_TLS _Thread_local
#else
#define DMI_TLS __attribute__((tls_model("initial-exec"))) _Thread_local
#endif

/* How the pages of a reservation come and go.
 * LAZY:   the range is writable from the start, and a touch commits a page. Decommit is MADV_DONTNEED: resident memory
 *         falls, the kernel's commit charge stays. (On Windows it is treated as STRICT.)
 * STRICT: the range is inaccessible until it is committed. Commit adds to the charge and may fail. Decommit makes the
 *         range inaccessible again, and the charge falls.
 * SPARSE: as LAZY, but only touched pages are charged. For metadata: dmi reserves enough for the largest heap, and a
 *         small one touches little of it. */
typedef enum dmi_os_mode { DMI_OS_LAZY = 0, DMI_OS_STRICT = 1, DMI_OS_SPARSE = 2 } dmi_os_mode;

typedef struct dmi_os_range {
    void *address; /* page aligned */
    size_t size;   /* bytes, a multiple of the page size, not 0 */
} dmi_os_range;

/* The OS page size in bytes (4 KiB, 16 KiB, 64 KiB ...), read once at run time. */
size_t _dmi_os_page_size(void);
/* The least alignment of a reservation: the page size; on Windows 64 KiB. */
size_t _dmi_os_granularity(void);

/* Reserve size bytes of address space, aligned to align. size is a multiple of the page size, align a power of two and
 * at least the page size. NULL: the OS has no such range. name labels the mapping where the OS can
 * (PR_SET_VMA_ANON_NAME); it is ASCII, or NULL. huge = false keeps transparent huge pages away (MADV_NOHUGEPAGE).
 * The whole range is uncommitted. In LAZY mode it reads as zeroes. */
void *_dmi_os_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge, const char *name);
/* Reserve memory for what stands in order: at the lowest free place of a window that is drawn at random once for the
 * process (window.h), with a gap behind it. Where the window has no such place: anywhere. */
void *_dmi_os_reserve_in_order(size_t size, size_t align, dmi_os_mode mode, bool huge,
                               const char *name);
/* Reserve size bytes for a sparse table that is read at any index. All of it reads as zeroes, and nothing is charged
 * until _dmi_os_commit makes a part writable. NULL on failure. (Linux: a private mapping with PROT_READ. Windows has
 * no such mapping, so the whole table is committed there: see windows.c.) */
void *_dmi_os_reserve_table(size_t size, const char *name);
/* Make [address, address+size) usable. Pages that were uncommitted read as zeroes; committed ones keep their contents.
 * ENOMEM on failure. */
int _dmi_os_commit(void *address, size_t size, dmi_os_mode mode);
/* Give the pages back to the OS. The contents are lost, the addresses stay reserved. LAZY: MADV_DONTNEED. STRICT: a
 * fresh inaccessible mapping. The OS may refuse (locked pages: EINVAL or EAGAIN; too many mappings: ENOMEM); then the
 * range is still committed and keeps its contents. */
int _dmi_os_decommit(void *address, size_t size, dmi_os_mode mode);
/* Decommit many LAZY ranges in as few system calls as the OS allows (process_madvise). refused[i] is the errno for
 * range i, 0: it went. Returns how many were refused. Adds the number of system calls to *calls, unless it is NULL. */
size_t _dmi_os_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                             uint64_t *calls);
/* Offer the pages (MADV_FREE): the OS may take each of them when it wants to, until _dmi_os_unoffer. The contents of a
 * page that it took are lost. */
int _dmi_os_offer(void *address, size_t size);
/* Take an offered range back before it is written. Its contents are undefined. On Linux this does nothing. */
int _dmi_os_unoffer(void *address, size_t size);
/* Should heaps be STRICT by default? Yes where the system promises no more memory than it has (Windows, and Linux with
 * vm.overcommit_memory = 2): there a charge without use takes memory from others. Read once. */
bool _dmi_os_strict_default(void);
/* Huge pages of 2 MiB. has_huge: does the OS back ranges with them on request? advise_huge: allow them for a range from
 * now on, or forbid them; the range is part of a reservation made with huge = true. break_huge: turn the huge page
 * behind the range into small pages; otherwise the kernel keeps all of a huge page of which a part was given back,
 * though that part no longer counts as resident. Both change no contents, and it does no harm when they fail. */
bool _dmi_os_has_huge(void);
void _dmi_os_advise_huge(void *address, size_t size, bool huge);
void _dmi_os_break_huge(void *address, size_t size);
/* Give back what lies behind uncommitted pages of a LAZY range. That is nothing, unless the touch of a neighbour
 * brought a huge page. */
void _dmi_os_forget(void *address, size_t size);
/* Uncommitted pages of a LAZY range are writable: let every access to these fault, until unguard. What they held is lost.
 * Of STRICT ranges, and on systems where uncommitted pages are never accessible, nothing is to be done. Those of SPARSE
 * ranges become a mapping of their own. */
int _dmi_os_guard(void *address, size_t size, dmi_os_mode mode);
int _dmi_os_unguard(void *address, size_t size, dmi_os_mode mode);
/* Does guard cut the mapping in pieces? */
bool _dmi_os_guard_cuts(dmi_os_mode mode);
/* From now on touched(address) is called, in a signal handler, on a thread that accesses what it may not. When it
 * returns, the handler that the program had set before runs; without one the process ends. A handler that the program
 * sets later takes the place of this one. Idempotent; 0, or ENOSYS. */
int _dmi_os_on_fault(void (*touched)(const void *address));
/* Change the mode of an uncommitted part of a reservation. To STRICT makes it inaccessible, to LAZY makes it writable,
 * to SPARSE drops its charge. It reads as zeroes afterwards. */
int _dmi_os_convert(void *address, size_t size, dmi_os_mode to);
/* About how large a new mapping of that mode can be at most, as address space, limits and the machine allow;
 * UINT64_MAX: nothing is known. *pages: would it be more if single pages were given back? Asks the OS each time, so
 * call it only after a refusal. */
uint64_t _dmi_os_headroom(dmi_os_mode mode, bool *pages);
/* Release a whole reservation; a part of one only where _dmi_os_can_trim(). */
int _dmi_os_release(void *address, size_t size);
/* Can a part of a reservation be released? Not on Windows. */
bool _dmi_os_can_trim(void);
/* Grow or shrink a whole LAZY reservation, and move it if may_move (mremap). Returns its new address. NULL: the OS
 * cannot; nothing changed. */
void *_dmi_os_remap(void *address, size_t old_size, size_t new_size, bool may_move);
/* Move the pages of a whole LAZY reservation to another one, [to, to+new_size), which is at least as large. Afterwards
 * from is gone, and what lies behind old_size reads as zeroes. For callers that must know the new place before they
 * move. On failure (ENOSYS where the OS cannot) from is as it was, and to is released. */
int _dmi_os_move(void *from, size_t old_size, void *to, size_t new_size);

/* Make two reservations of a whole one, [address, address+size): its first bytes, and the rest. False: the OS cannot
 * (Windows), or there is no memory to note it; nothing changed. */
bool _dmi_os_split(void *address, size_t size, size_t first);
/* Make one reservation of two that lie side by side. False: they stay two. */
bool _dmi_os_join(void *left, size_t left_size, size_t right_size);

/* Bytes of the range that are resident in physical memory now; -1 where the OS does not say. Walks the page tables, so
 * it is too slow for hot paths. */
int64_t _dmi_os_resident(const void *address, size_t size);
/* Resident bytes of the process (RSS); -1 where the OS does not say. */
int64_t _dmi_os_process_resident(void);
/* A coarse monotonic clock in nanoseconds. Its steps are a few milliseconds, and it costs a few nanoseconds. */
uint64_t _dmi_os_clock(void);
/* A monotonic clock in nanoseconds whose steps are below a microsecond. It costs tens of nanoseconds. */
uint64_t _dmi_os_fine_clock(void);
/* User + system CPU time of the process, nanoseconds. */
uint64_t _dmi_os_cpu_time(void);
/* Fill size bytes with random bytes. 0: they are the OS's. EAGAIN (it has none yet) or ENOSYS (it refuses): they are
 * derived from what the OS gave the process when it started or, without that, from clock and addresses. Then they can
 * be guessed. */
int _dmi_os_random(void *buffer, size_t size);
/* Read the first size - 1 bytes of a text file of the system (/proc, /sys), and put a 0 behind them. Returns the
 * length. -1: it cannot be read, or the OS has no such files. Not a cancellation point. */
int _dmi_os_read_file(const char *path, char *buffer, size_t size);
/* Call visit for each region of the address space of process pid (0: this one), as dmi_address_regions in dmi.h
 * promises. *total is the end of the address space. ENOSYS: here the regions stand in files (Linux). No lock is held
 * while visit runs. */
struct dmi_region;
typedef void (*dmi_os_region_visit)(void *argument, const struct dmi_region *region);
int _dmi_os_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total);
/* Write a message to standard error without allocating. */
void _dmi_os_message(const char *text, size_t length);

/* Sleep while *word == expected, at most timeout_ns (UINT64_MAX: for ever). May return early without a reason. */
void _dmi_os_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
/* Wake one thread that waits for the word, or all. */
void _dmi_os_wake(_Atomic uint32_t *word, bool all);
/* A number that tells live threads apart (not 0). */
uint64_t _dmi_os_thread_id(void);
/* When a thread that called _dmi_os_thread_exit_arm(value) ends, call handler(value) in it, after the destructors of
 * others where possible. setup is called once in a process. */
int _dmi_os_thread_exit_setup(void (*handler)(void *value));
int _dmi_os_thread_exit_arm(void *value);
/* When it returns 0, each other thread of the process has passed a full memory barrier since the call began. setup
 * registers the process, once. ENOSYS: the OS refuses. */
int _dmi_os_barrier_setup(void);
int _dmi_os_barrier(void);
/* Call these around each fork. Does nothing where there is no fork. */
int _dmi_os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
/* Start a thread that runs body on a small stack with every signal blocked. Only one at a time: join it before the next
 * start. ENOSYS: no threads here. join waits until body has returned and, but for Windows, the system counts the thread no
 * more. */
int _dmi_os_thread_start(void (*body)(void));
void _dmi_os_thread_join(void);

/* Does another copy of this code, in another file, serve this process? The first call that answers yes names both files
 * on standard error. Always false on Windows, where a DLL is found by its name. */
bool _dmi_os_is_second_copy(void);

/* What this process did since it started. Counted in os.c for every backend. */
typedef struct dmi_os_counters {
    uint64_t reserve_calls, commit_calls, decommit_calls, offer_calls, release_calls;
    uint64_t reserved_bytes; /* now */
    uint64_t
        committed_bytes; /* now: commits less decommits and less what _dmi_os_uncount was told */
    uint64_t refused_calls;
} dmi_os_counters;
void _dmi_os_counters(dmi_os_counters *out);
/* Take committed bytes of a range that is about to be released out of committed_bytes. Release does not know how much
 * of its range is committed. */
void _dmi_os_uncount(size_t committed_bytes);

/* Fault injection: let the nth fallible call from now fail (1: the next one), and all after it if sticky. n = 0 switches
 * it off. Fallible calls are reserve, reserve_table, commit, each range of decommit, offer and move. */
void _dmi_os_fail_at(uint64_t n, bool sticky);
/* Fallible calls seen since the last _dmi_os_fail_at. */
uint64_t _dmi_os_fallible_calls(void);

/* A backend: what linux.c, windows.c and fake.c each provide. The contracts are those above. */
typedef struct dmi_os_backend {
    const char *name;
    size_t (*page_size)(void);
    size_t (*granularity)(void);
    bool can_trim;
    bool (*strict_default)(void);
    void *(*reserve)(size_t, size_t, dmi_os_mode, bool, const char *);
    /* At that address or not at all: 0, EEXIST (something is there), or why this or any such place cannot be had. */
    int (*reserve_at)(void *, size_t, dmi_os_mode, bool, const char *);
    void *(*reserve_table)(size_t, const char *);
    int (*commit)(void *, size_t, dmi_os_mode);
    int (*decommit)(void *, size_t, dmi_os_mode);
    size_t (*decommit_many)(const dmi_os_range *, size_t, int *, uint64_t *);
    int (*offer)(void *, size_t);
    int (*unoffer)(void *, size_t);
    int (*guard)(void *, size_t, dmi_os_mode, bool);
    bool (*guard_cuts)(dmi_os_mode);
    int (*on_fault)(void (*)(const void *));
    int (*convert)(void *, size_t, dmi_os_mode);
    bool (*has_huge)(void);
    void (*advise_huge)(void *, size_t, bool);
    void (*break_huge)(void *, size_t);
    void (*forget)(void *, size_t);
    int (*release)(void *, size_t);
    void *(*remap)(void *, size_t, size_t, bool);
    int (*move)(void *, size_t, void *, size_t);
    bool (*split)(void *, size_t, size_t);
    bool (*join)(void *, size_t, size_t);
    uint64_t (*headroom)(dmi_os_mode, bool *);
    int64_t (*resident)(const void *, size_t);
    int64_t (*process_resident)(void);
    uint64_t (*clock)(void);
    uint64_t (*fine_clock)(void);
    uint64_t (*cpu_time)(void);
    int (*random)(void *, size_t);
    int (*read_file)(const char *, char *, size_t);
    int (*regions)(uint64_t, dmi_os_region_visit, void *, uint64_t *);
    void (*message)(const char *, size_t);
    void (*wait)(_Atomic uint32_t *, uint32_t, uint64_t);
    void (*wake)(_Atomic uint32_t *, bool);
    uint64_t (*thread_id)(void);
    int (*thread_exit_setup)(void (*)(void *));
    int (*thread_exit_arm)(void *);
    int (*barrier_setup)(void);
    int (*barrier)(void);
    int (*at_fork)(void (*)(void), void (*)(void), void (*)(void));
    int (*thread_start)(void (*)(void));
    void (*thread_join)(void);
} dmi_os_backend;

extern const dmi_os_backend _dmi_os_native; /* linux.c or windows.c */
/* Tests only: replace the backend before anything was reserved. */
void _dmi_os_use(const dmi_os_backend *backend);

#endif
