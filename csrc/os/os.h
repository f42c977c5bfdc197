/* os.h - floor 1: the operating system as dmi sees it.
 *
 * Four verbs on address ranges, as VirtualAlloc has them: reserve, commit, decommit, release; and
 * offer, which lets the OS take pages when it wants them. os.c is the only caller of a backend
 * (linux.c, windows.c, fake.c) and keeps the process-wide accounting and the fault injection.
 *
 * Every primitive that can fail returns 0 on success and an errno value on failure, leaves errno
 * itself alone, and on failure leaves the range as it was, unless its comment says otherwise.
 * All are safe to call from any thread. None of them calls malloc.
 */
#ifndef DMI_OS_H
#define DMI_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A word of each thread's own, one load away even in a library that is loaded late. */
#if defined(_WIN32)
#define DMI_TLS _Thread_local
#else
#define DMI_TLS __attribute__((tls_model("initial-exec"))) _Thread_local
#endif

/* How the pages of a reservation come and go.
 * LAZY:   the range is writable from the start and committed by touching it; giving back is
 *         MADV_DONTNEED: resident falls, the kernel's commit charge stays. (Linux only; Windows
 *         treats it as STRICT with DiscardVirtualMemory where that exists.)
 * STRICT: the range is inaccessible until committed; commit charges and may fail; decommit makes
 *         it inaccessible again, and the charge falls.
 * SPARSE: as LAZY, but the charge is for what is touched only: for metadata, which reserves for
 *         the largest heap and touches what a small one needs. Its pages are committed and given
 *         back as LAZY. */
typedef enum dmi_os_mode { DMI_OS_LAZY = 0, DMI_OS_STRICT = 1, DMI_OS_SPARSE = 2 } dmi_os_mode;

typedef struct dmi_os_range {
    void *address; /* page aligned */
    size_t size;   /* bytes, a multiple of the page size, not 0 */
} dmi_os_range;

/* The OS page size in bytes (4 KiB, 16 KiB, 64 KiB ...), read once at run time. */
size_t _dmi_os_page_size(void);
/* Alignment that every reservation has at least (the page size; 64 KiB on Windows). */
size_t _dmi_os_granularity(void);

/* Reserve size bytes of address space (a multiple of the page size), aligned to align (a power of
 * two, at least the page size). Returns NULL when the OS has no such range. name (may be NULL,
 * ASCII) labels the mapping where the OS can (PR_SET_VMA_ANON_NAME). huge = false keeps
 * transparent huge pages away (MADV_NOHUGEPAGE). The whole range is uncommitted, reads of it as
 * LAZY give zeroes. */
void *_dmi_os_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge, const char *name);
/* The same for what stands in order, at the lowest free place of a window that is drawn at random once for the process
 * (window.h), with a gap behind it; anywhere, where the window has no such place. */
void *_dmi_os_reserve_in_order(size_t size, size_t align, dmi_os_mode mode, bool huge,
                               const char *name);
/* Reserve size bytes that read as zeroes everywhere and cost no commit charge until _dmi_os_commit
 * makes parts writable; for sparse tables that are read at any index. NULL on failure.
 * (Linux: PROT_READ private mapping; Windows: a reserved range whose pages are committed by a
 * vectored handler would be needed, so there the whole table is committed read-only-zero; see
 * windows.c.) */
void *_dmi_os_reserve_table(size_t size, const char *name);
/* Make [address, address+size) usable; its contents are zeroes if it was uncommitted. Parts that
 * are committed already are left alone. ENOMEM on failure. */
int _dmi_os_commit(void *address, size_t size, dmi_os_mode mode);
/* Give the pages back to the OS; the addresses stay reserved. Contents are lost. LAZY: MADV_DONTNEED;
 * STRICT: fresh inaccessible mapping, charge falls. May be refused (locked pages: EINVAL/EAGAIN,
 * VMA limit: ENOMEM), then the range is still committed with its contents. */
int _dmi_os_decommit(void *address, size_t size, dmi_os_mode mode);
/* The same for many ranges, LAZY only, in as few calls as the OS allows (process_madvise where it
 * exists). refused[i] is set to the errno for range i, 0 where it went. Returns the number of ranges
 * that were refused. *calls (may be NULL) is increased by the number of system calls made. */
size_t _dmi_os_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                             uint64_t *calls);
/* MADV_FREE: the OS may take the pages when it wants to; contents are lost or kept, page by page,
 * until _dmi_os_unoffer. */
int _dmi_os_offer(void *address, size_t size);
/* Take an offered range back before writing to it; contents are undefined. Nothing to do on Linux. */
int _dmi_os_unoffer(void *address, size_t size);
/* Whether memory should come in STRICT mode unless somebody asks otherwise: the system promises no more
 * than it has (Windows; Linux with vm.overcommit_memory = 2), so that a charge kept for nothing
 * hurts others. Read once. */
bool _dmi_os_strict_default(void);
/* Huge pages of 2 MiB. has: whether the OS backs ranges with them that ask for it. The others are not worth
 * failing for and change no contents. advise: may the range, of a reservation made with huge = true, be
 * backed by them from now on? break: one behind the range becomes small pages. Without that the kernel
 * keeps all of a huge page of which a part was given back, though it no longer counts as resident. */
bool _dmi_os_has_huge(void);
void _dmi_os_advise_huge(void *address, size_t size, bool huge);
void _dmi_os_break_huge(void *address, size_t size);
/* Uncommitted pages of a LAZY range cost nothing, unless a huge page came with a neighbour's touch: forget
 * what lies behind them. */
void _dmi_os_forget(void *address, size_t size);
/* Change the mode of a whole reservation's uncommitted part [address,size): LAZY to STRICT makes it
 * inaccessible, STRICT to LAZY makes it writable, LAZY to SPARSE drops the charge for it. Contents are
 * zeroes after. */
int _dmi_os_convert(void *address, size_t size, dmi_os_mode to);
/* About how many bytes more a new mapping of that mode can have at most, by what address space, limits and machine
 * hold; UINT64_MAX: nothing is known. *pages: giving back single pages lets it have more. Asks the OS each
 * time: for when it refused. */
uint64_t _dmi_os_headroom(dmi_os_mode mode, bool *pages);
/* Return a whole reservation (address and size as they were reserved). */
int _dmi_os_release(void *address, size_t size);
/* Release a part of a reservation: only where _dmi_os_can_trim() (not on Windows). */
bool _dmi_os_can_trim(void);
/* Grow or shrink a whole reservation made LAZY, moving it if need be (mremap). NULL where the OS cannot;
 * then nothing changed. */
void *_dmi_os_remap(void *address, size_t old_size, size_t new_size, bool may_move);
/* Let the pages of a whole reservation made LAZY take the place of another one, [to, to+new_size), which
 * must be at least as large; from is gone after, and what lies behind old_size reads as zeroes. For callers
 * that must know the new place before they can move. On failure (ENOSYS where the OS cannot) from is
 * as it was and to is released. */
int _dmi_os_move(void *from, size_t old_size, void *to, size_t new_size);

/* A whole reservation, [address, address+size), is two from now on: [address, address+first) and the rest. False
 * where the OS cannot (Windows), or the two cannot be told apart; then nothing changed. */
bool _dmi_os_split(void *address, size_t size, size_t first);
/* Two that lie side by side are one from now on. False: they stay two. */
bool _dmi_os_join(void *left, size_t left_size, size_t right_size);

/* Bytes of the range that are resident in physical memory now. -1 where the OS does not say. Walks
 * the page tables: not for hot paths. */
int64_t _dmi_os_resident(const void *address, size_t size);
/* Physical memory of the process in bytes (RSS), -1 where the OS does not say. */
int64_t _dmi_os_process_resident(void);
/* Coarse monotonic clock, nanoseconds (a few ms of resolution, a few ns of cost). */
uint64_t _dmi_os_clock(void);
/* User + system CPU time of the process, nanoseconds. */
uint64_t _dmi_os_cpu_time(void);
/* Fill size bytes with random bytes. 0: from the OS. EAGAIN (it has none yet) or ENOSYS (it refuses): derived from
 * what the OS gave the process when it started, or where there is not even that, from clock and addresses; no
 * key for who relies on one. */
int _dmi_os_random(void *buffer, size_t size);
/* Read a small text file of the system's (/proc, /sys) from its beginning: at most size - 1 bytes, and a 0
 * behind them. The length; -1 when it cannot be read, or the OS has no such files. Allocates nothing
 * and is no cancellation point. */
int _dmi_os_read_file(const char *path, char *buffer, size_t size);
/* Call visit for every region of the address space of process pid (0: this one), as dmi_address_regions in
 * dmi.h promises it; *total is where the space ends. ENOSYS where only files tell. No lock is held when
 * visit runs. */
struct dmi_region;
typedef void (*dmi_os_region_visit)(void *argument, const struct dmi_region *region);
int _dmi_os_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total);
/* Write a message to standard error without allocating. */
void _dmi_os_message(const char *text, size_t length);

/* Sleep while *word == expected (spurious returns allowed), at most timeout_ns (UINT64_MAX: for ever). */
void _dmi_os_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void _dmi_os_wake(_Atomic uint32_t *word, bool all);
/* A number that tells live threads apart (not 0). */
uint64_t _dmi_os_thread_id(void);
/* Call handler(value) in each thread that called _dmi_os_thread_exit_arm(value) when that thread ends,
 * late, after the other destructors where that can be had. setup is called once per process. */
int _dmi_os_thread_exit_setup(void (*handler)(void *value));
int _dmi_os_thread_exit_arm(void *value);
/* After return, every other thread of the process has passed a full memory barrier since the call
 * began. setup registers the process (once); both return 0, or ENOSYS where the OS refuses. */
int _dmi_os_barrier_setup(void);
int _dmi_os_barrier(void);
/* Handlers around fork (no-op where there is no fork). */
int _dmi_os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void));
/* Start a thread that runs body with every signal blocked, on a small stack. One at a time: join the last
 * one before the next start. 0 or an errno (ENOSYS: no threads here). join waits for its end, until
 * the system does not count it any more either. */
int _dmi_os_thread_start(void (*body)(void));
void _dmi_os_thread_join(void);

/* Whether another copy of this code, in another file, serves this process; the first call that finds one names
 * both on standard error. (Windows: always false; there a DLL is found by its name.) */
bool _dmi_os_is_second_copy(void);

/* What this process did, since the start. Counted in os.c for every backend. */
typedef struct dmi_os_counters {
    uint64_t reserve_calls, commit_calls, decommit_calls, offer_calls, release_calls;
    uint64_t reserved_bytes;  /* now */
    uint64_t committed_bytes; /* now, as dmi counts: commits less decommits less releases */
    uint64_t refused_calls;
} dmi_os_counters;
void _dmi_os_counters(dmi_os_counters *out);
/* Tell os.c that bytes of a LAZY range that is about to be released were committed (they leave
 * committed_bytes). Commit and decommit themselves are counted by their primitives. */
void _dmi_os_uncount(size_t committed_bytes);

/* Fault injection: let the nth fallible call from now fail (1 = the next), and every one after it
 * while sticky. n = 0 switches it off. Counts reserve, reserve_table, commit, decommit, offer. */
void _dmi_os_fail_at(uint64_t n, bool sticky);
/* Fallible calls seen since the last _dmi_os_fail_at. */
uint64_t _dmi_os_fallible_calls(void);

/* A backend: what linux.c, windows.c and fake.c each provide; same contracts as above. */
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
