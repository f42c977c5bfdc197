/* stress.c - threads that allocate, free each other's blocks, are suspended anywhere, end, and fork, while
 * others look into the heaps, trim them and change their policies.
 *
 * stress [OPERATIONS [POLICY [SEED [hardened | profile]]]]: so many operations in all (default 10^6); with a policy both heaps
 * keep it, else it changes all the time; both are hardened or neither. Blocks carry their size and a pattern that follows from their
 * address, so that a block handed out twice, a link written into a busy one, or a page given back under one
 * shows. Some blocks live throughout: every walk must see each of them once, busy, and find must name it.
 */
#define _GNU_SOURCE
#include "heap/create.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#define FEATURE(name) __has_feature(name)
#else
#define FEATURE(name) 0
#endif
/* The sanitizers' own runtimes, and simulated processors, do not live on in a fork child of a threaded process. */
#if defined(SIMULATED) || defined(__SANITIZE_THREAD__) || FEATURE(thread_sanitizer)
#define CAN_FORK 0
#else
#define CAN_FORK 1
#endif

#define WORKERS 4
#define SLOTS 4096 /* where a thread finds blocks of others */
#define OWN 256    /* blocks a thread keeps to itself */
#define STAYERS 300
#define LIFE 4000 /* operations of a worker until it ends and another begins */

static void *heaps[2]; /* the default heap, and one of its own */
static _Atomic(unsigned char *) slots[SLOTS];
static unsigned char *stayers[STAYERS]; /* by address */
static void *stayers_heap[STAYERS];
static atomic_long left; /* operations still to do */
static atomic_bool stop;
static atomic_ulong suspensions, forks, vforks, looks, switches, refusals;

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fputs("stress: ", stderr);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    abort();
}

static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static unsigned char pattern(const unsigned char *b) {
    return (unsigned char)(((uintptr_t)b >> 4) * 37 + 11);
}

static void fill(unsigned char *b, size_t n) {
    memcpy(b, &n, sizeof n);
    memset(b + sizeof n, pattern(b), n - sizeof n);
}

static size_t check(const unsigned char *b, unsigned char expected) {
    size_t n;
    memcpy(&n, b, sizeof n);
    if (n < sizeof n || n > (size_t)4 << 20) die("block %p: its size is %zx", (const void *)b, n);
    size_t step = n < 256 ? 1 : 61;
    for (size_t i = sizeof n; i < n; i += step)
        if (b[i] != expected)
            die("block %p of %zu bytes: byte %zu is %02x", (const void *)b, n, i, b[i]);
    if (b[n - 1] != expected && n > sizeof n)
        die("block %p of %zu bytes: its last byte is %02x", (const void *)b, n, b[n - 1]);
    return n;
}

static size_t random_size(uint64_t *seed) {
    uint64_t r = next_random(seed), how = r & 1023;
    size_t at_most = how < 700    ? 200
                     : how < 960  ? 3000
                     : how < 1018 ? 40000
                     : how < 1023 ? 300000
                                  : 3000000;
    return 8 + (size_t)(r >> 10) % at_most;
}

static unsigned char *make(uint64_t *seed) {
    size_t n = random_size(seed);
    uint64_t r = next_random(seed);
    void *heap = heaps[r & 1];
    unsigned char *b;
    switch ((r >> 1) & 15) {
    case 0:
        b = dmi_heap_calloc(heap, 1, n);
        if (b)
            for (size_t i = 0; i < n; i += 97)
                if (b[i]) die("calloc gave %p, byte %zu is %02x", (void *)b, i, b[i]);
        break;
    case 1: {
        size_t align = (size_t)16 << ((r >> 8) % 10);
        b = dmi_heap_aligned_alloc(heap, align, n);
        if ((uintptr_t)b % align) die("%p is not aligned to %zu", (void *)b, align);
        break;
    }
    case 2: b = dmi_malloc(n); break;
    default: b = dmi_heap_malloc(heap, n);
    }
    if (!b) die("no memory for %zu bytes: %s", n, strerror(errno));
    if (dmi_usable_size(b) < n)
        die("%p has %zu usable bytes of %zu", (void *)b, dmi_usable_size(b), n);
    fill(b, n);
    return b;
}

static unsigned char *grow(unsigned char *b, uint64_t *seed) {
    unsigned char was = pattern(b);
    size_t old = check(b, was), n = random_size(seed);
    unsigned char *to = dmi_realloc(b, n);
    if (!to) die("no memory for %zu bytes", n);
    size_t kept = old < n ? old : n;
    for (size_t i = sizeof(size_t); i < kept; i += 31)
        if (to[i] != was) die("realloc %zu to %zu lost byte %zu", old, n, i);
    fill(to, n);
    return to;
}

static void drop(unsigned char *b) {
    if (!b) return;
    (void)check(b, pattern(b));
    dmi_free(b);
}

/* ---- workers ----------------------------------------------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_t thread;
    bool alive;
} workers[WORKERS];

/* Leave a thread where it is for a while. */
static void suspended(int number) {
    int saved = errno;
    (void)number;
    static atomic_uint turn;
    unsigned t = atomic_fetch_add(&turn, 1);
    (void)poll(NULL, 0, t % 16 == 0 ? 20 : (int)(t % 4));
    atomic_fetch_add(&suspensions, 1);
    errno = saved;
}

#if CAN_FORK
/* A child on the same memory and the same thread-local words, while its parent waits inside vfork. */
__attribute__((noinline)) static int vfork_child(void) {
    unsigned char *some[40];
    for (size_t i = 0; i < 40; i++) {
        some[i] = dmi_heap_malloc(heaps[i & 1], 24 + i * 16);
        if (!some[i]) return 1;
        fill(some[i], 24 + i * 16);
    }
    (void)poll(NULL, 0, 2);
    for (size_t i = 0; i < 40; i++) drop(some[i]);
    return 0;
}

static void call_vfork(void) {
    pid_t child = vfork();
    if (child == 0) _exit(vfork_child());
    int status;
    if (child < 0) return;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) die("waitpid: %s", strerror(errno));
    if (status) die("a vfork child ended with status %x", (unsigned)status);
    atomic_fetch_add(&vforks, 1);
}
#endif

static void work(uint64_t seed) {
    unsigned char *own[OWN] = {0};
    for (long i = 0; i < LIFE && atomic_fetch_sub_explicit(&left, 1, memory_order_relaxed) > 0;
         i++) {
        uint64_t r = next_random(&seed);
        if (r % 3 == 0) { /* local: made and freed by this thread */
            size_t at = (r >> 8) % OWN;
            if (own[at] && r & (1 << 20)) {
                own[at] = grow(own[at], &seed);
            } else {
                drop(own[at]);
                own[at] = r & (1 << 21) ? make(&seed) : NULL;
            }
        } else { /* freed by whoever finds it */
            unsigned char *b = r & (1 << 22) ? make(&seed) : NULL;
            drop(atomic_exchange(&slots[(r >> 8) % SLOTS], b));
        }
#if CAN_FORK
        if (r >> 51 == 1) call_vfork();
#endif
    }
    /* Half of what is left comes back from others after this thread has ended. */
    for (size_t i = 0; i < OWN; i++) {
        if (i & 1) drop(own[i]);
        else drop(atomic_exchange(&slots[next_random(&seed) % SLOTS], own[i]));
    }
}

static void *worker(void *argument) {
    size_t me = (size_t)argument & 0xff;
    pthread_mutex_lock(&workers[me].lock);
    workers[me].alive = true;
    workers[me].thread = pthread_self();
    pthread_mutex_unlock(&workers[me].lock);
    work((uintptr_t)argument);
    pthread_mutex_lock(&workers[me].lock);
    workers[me].alive = false;
    pthread_mutex_unlock(&workers[me].lock);
    return NULL;
}

/* One worker after the other, until the operations are used up. */
static void *births(void *argument) {
    for (uintptr_t life = 1; atomic_load(&left) > 0; life++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)((uintptr_t)argument | life << 8)))
            die("no thread");
        pthread_join(thread, NULL);
    }
    return NULL;
}

/* ---- those who disturb ---------------------------------------------------------------------------------- */

static void *suspender(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        size_t i = next_random(&seed) % WORKERS;
        pthread_mutex_lock(&workers[i].lock);
        if (workers[i].alive) pthread_kill(workers[i].thread, SIGUSR1);
        pthread_mutex_unlock(&workers[i].lock);
        (void)poll(NULL, 0, 1);
    }
    return NULL;
}

typedef struct census {
    uint64_t next, bytes; /* of the segment that is walked */
    uint64_t sum;
    unsigned seen[STAYERS];
} census;

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (unsigned char *const *)a,
              y = (uintptr_t) * (unsigned char *const *)b;
    return x < y ? -1 : x > y;
}

static int count(void *argument, const dmi_range *range) {
    census *c = argument;
    c->sum += range->size;
    if (range->size == 0)
        die("the walk shows an empty range at %llx", (unsigned long long)range->address);
    if (range->address != range->segment && range->address != c->next)
        die("the walk leaves a gap before %llx", (unsigned long long)range->address);
    c->next = range->address + range->size;
    unsigned char *address = (unsigned char *)(uintptr_t)range->address;
    unsigned char **at = bsearch(&address, stayers, STAYERS, sizeof *stayers, by_address);
    if (!at) return 0;
    if (range->state != DMI_STATE_BUSY)
        die("block %p lives, and the walk says %u", (void *)address, range->state);
    c->seen[at - stayers]++;
    return 0;
}

static void validate(void *heap, const char *where) {
    dmi_fault fault = {.size = sizeof fault};
    int result = dmi_heap_validate(heap, &fault);
    if (result) die("%s: validate says %d, %s", where, result, fault.message);
}

static void read_stats(void *heap, uint32_t what) {
    dmi_stats s = {.size = sizeof s};
    if (dmi_heap_stats(heap, &s, what)) die("stats: %s", strerror(errno));
    if (s.reserved != s.uncommitted + s.committed ||
        s.committed != s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead)
        die("the waterfall does not close");
    if (!(what & DMI_STATS_DETAIL)) return;
    uint64_t reasons = 0;
#define ADD(name, doc) reasons += s.reason_##name;
    DMI_REASONS(ADD)
    if (s.free_lfh + s.free_list + s.free_pages != s.reclaimable + s.pinned)
        die("reclaimable %llu and pinned %llu are not what is free",
            (unsigned long long)s.reclaimable, (unsigned long long)s.pinned);
    if (reasons != s.committed - s.busy)
        die("the reasons sum to %llu of %llu", (unsigned long long)reasons,
            (unsigned long long)(s.committed - s.busy));
}

static void find_some(uint64_t *seed) {
    dmi_found found = {.size = sizeof found};
    size_t i = next_random(seed) % STAYERS;
    size_t n = check(stayers[i], pattern(stayers[i]));
    if (dmi_find(stayers[i] + next_random(seed) % n, &found) ||
        found.range.state != DMI_STATE_BUSY || found.range.address != (uintptr_t)stayers[i] ||
        found.range.size < n || found.heap != stayers_heap[i])
        die("find does not know %p", (void *)stayers[i]);
    /* Of a block that may be freed, and its segment released, this very moment, any answer will do. */
    unsigned char *b = atomic_load(&slots[next_random(seed) % SLOTS]);
    if (b) (void)dmi_find(b, &found);
}

static void short_life(uint64_t *seed) {
    dmi_heap_options options = {.size = sizeof options, .name = "short"};
    void *heap = dmi_heap_create(&options), *blocks[50];
    if (!heap) die("no heap: %s", strerror(errno));
    size_t n = 16 + next_random(seed) % 500;
    for (size_t i = 0; i < 50; i++)
        if (!(blocks[i] = dmi_heap_malloc(heap, n))) die("no memory");
    for (size_t i = 0; i < 50; i += 2) dmi_heap_free(heap, blocks[i]);
    validate(heap, "a short-lived heap");
    if (dmi_heap_destroy(heap)) die("destroy: %s", strerror(errno));
    if (dmi_heap_valid(heap) || dmi_heap_malloc(heap, 10) || errno != EINVAL)
        die("a stale handle was followed");
}

static void *looker(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        void *heap = heaps[next_random(&seed) & 1];
        switch (next_random(&seed) % 8) {
        case 0: read_stats(heap, DMI_STATS_DETAIL); break;
        case 1: read_stats(heap, 0); break;
        case 2:
            if (dmi_heap_trim(heap, NULL)) die("trim: %s", strerror(errno));
            break;
        case 3: validate(heap, "beside working threads"); break;
        case 4: {
            census c = {.sum = 0};
            if (dmi_heap_walk(heap, count, &c)) die("walk");
            for (size_t i = 0; i < STAYERS; i++)
                if (c.seen[i] != (stayers_heap[i] == heap))
                    die("the walk shows %p %u times", (void *)stayers[i], c.seen[i]);
            break;
        }
        case 5: short_life(&seed); break;
        default:
            for (int i = 0; i < 20; i++) find_some(&seed);
        }
        atomic_fetch_add(&looks, 1);
        if (next_random(&seed) % 4 == 0) (void)poll(NULL, 0, 1);
    }
    return NULL;
}

static void parse(const char *text, dmi_policy *policy) {
    char error[200];
    policy->size = sizeof *policy;
    if (dmi_policy_parse(text, policy, error, sizeof error)) die("%s: %s", text, error);
}

static const char *const policies[] = {"lazy:delay=0.01",
                                       "eager",
                                       "never",
                                       "decay:half_life=0.05",
                                       "threshold",
                                       "budget",
                                       "lazy:delay=0.001:how=decommit",
                                       "eager:how=decommit",
                                       "threshold:combine=or",
                                       "lazy:delay=0.01:how=offer",
                                       "eager:how=offer",
                                       "never:how=decommit",
                                       "decay:half_life=0.01:how=decommit"};

static void *switcher(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        dmi_policy policy;
        uint64_t r = next_random(&seed);
        parse(policies[(r >> 8) % (sizeof policies / sizeof *policies)], &policy);
        if (dmi_heap_set_policy(heaps[r & 1], &policy)) atomic_fetch_add(&refusals, 1);
        else atomic_fetch_add(&switches, 1);
        (void)poll(NULL, 0, (int)(r >> 32 & 7));
    }
    return NULL;
}

/* ---- a profiler -------------------------------------------------------------------------------------------- */

static int swallow(void *argument, const void *bytes, size_t size) {
    (void)bytes;
    *(size_t *)argument += size;
    return 0;
}

static void start_profiler(uint64_t seed) {
    dmi_profile_options options = {
        .size = sizeof options, .one_in = 1 + (uint32_t)(seed % 3), .seed = seed | 1};
    if (dmi_profile_start(&options)) die("profile: %s", strerror(errno));
}

/* Looks at what is held, and begins anew now and then. */
static void *profiler(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        size_t written = 0;
        if (dmi_profile_write(swallow, &written)) die("a profile: %s", strerror(errno));
        uint64_t r = next_random(&seed);
        if (r % 4 == 0) {
            if (dmi_profile_stop()) die("profile: it had stopped");
            (void)poll(NULL, 0, (int)(r >> 32 & 7));
            start_profiler(r);
        }
        (void)poll(NULL, 0, (int)(r >> 40 & 15));
    }
    return NULL;
}

#if CAN_FORK
static int fork_child(uint64_t seed) {
    alarm(60); /* a lock that a vanished thread held would never open */
    for (int h = 0; h < 2; h++) validate(heaps[h], "in a fork child");
    for (size_t i = 0; i < STAYERS; i++) (void)check(stayers[i], pattern(stayers[i]));
    for (size_t i = 0; i < SLOTS; i++) {
        drop(atomic_exchange(&slots[i], NULL));
        if (i % 3 == 0) atomic_store(&slots[i], make(&seed));
    }
    for (int h = 0; h < 2; h++) {
        validate(heaps[h], "in a fork child that worked");
        if (dmi_heap_trim(heaps[h], NULL)) die("trim in a fork child: %s", strerror(errno));
        read_stats(heaps[h], DMI_STATS_DETAIL);
    }
    for (size_t i = 0; i < SLOTS; i++) drop(atomic_exchange(&slots[i], NULL));
    dmi_policy policy;
    parse(policies[next_random(&seed) % (sizeof policies / sizeof *policies)], &policy);
    for (int h = 0; h < 2; h++) {
        if (dmi_heap_set_policy(heaps[h], &policy))
            die("set_policy in a fork child: %s", strerror(errno));
        validate(heaps[h], "at the end of a fork child");
    }
    return 0;
}

static void *forker(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        pid_t child = fork();
        if (child == 0) _exit(fork_child(next_random(&seed)));
        if (child < 0) die("fork: %s", strerror(errno));
        int status;
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR) die("waitpid: %s", strerror(errno));
        if (status) die("a fork child ended with status %x", (unsigned)status);
        atomic_fetch_add(&forks, 1);
        (void)poll(NULL, 0, 30);
    }
    return NULL;
}
#endif

/* ---- the run --------------------------------------------------------------------------------------------- */

static void start(pthread_t *thread, void *(*run)(void *), uintptr_t argument) {
    if (pthread_create(thread, NULL, run, (void *)argument)) die("no thread");
}

int main(int argc, char **argv) {
    long operations = argc > 1 ? strtol(argv[1], NULL, 10) : 1000000;
    const char *fixed = argc > 2 && strcmp(argv[2], "all") ? argv[2] : NULL;
    uint64_t seed = argc > 3 ? strtoul(argv[3], NULL, 0) : (unsigned long)getpid();
    printf("stress: %ld operations, policy %s, seed %llu\n", operations, fixed ? fixed : "changing",
           (unsigned long long)seed);
    fflush(stdout);
    dmi_policy policy;
    parse(fixed ? fixed : "lazy:delay=0.01", &policy);
    dmi_heap_options options = {.size = sizeof options, .name = "stress", .policy = &policy};
    if (seed & 1) { /* half of all runs */
        options.flags = DMI_HEAP_HUGE_PAGES;
        options.huge_split = 0.05;
    }
    bool profiled = argc > 4 && !strcmp(argv[4], "profile");
    if (profiled) start_profiler(seed);
    if (argc > 4 && !profiled) {
        options.flags |= DMI_HEAP_HARDENED;
        dmi_heap_options main_options = options;
        main_options.name = NULL;
        _dmi_set_default_options(&main_options);
    }
    heaps[0] = dmi_heap_default();
    heaps[1] = dmi_heap_create(&options);
    if (!heaps[0] || !heaps[1]) die("no heap");
    if (dmi_heap_set_policy(heaps[0], &policy)) die("set_policy: %s", strerror(errno));
    struct sigaction action = {.sa_handler = suspended, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    for (size_t i = 0; i < WORKERS; i++) pthread_mutex_init(&workers[i].lock, NULL);
    for (size_t i = 0; i < STAYERS; i++) {
        size_t n = random_size(&seed) % 5000 + 8;
        stayers[i] = dmi_heap_malloc(heaps[i & 1], n);
        if (!stayers[i]) die("no memory");
        fill(stayers[i], n);
    }
    qsort(stayers, STAYERS, sizeof *stayers, by_address);
    for (size_t i = 0; i < STAYERS; i++) {
        dmi_found found = {.size = sizeof found};
        if (dmi_find(stayers[i], &found)) die("find: %s", strerror(errno));
        stayers_heap[i] = found.heap;
    }
    atomic_store(&left, operations);
    pthread_t births_threads[WORKERS], others[7];
    size_t n = 0;
    start(&others[n++], looker, seed + 1);
    start(&others[n++], looker, seed + 2);
    start(&others[n++], suspender, seed + 3);
    if (!fixed) start(&others[n++], switcher, seed + 4);
    if (profiled) start(&others[n++], profiler, seed + 6);
#if CAN_FORK
    start(&others[n++], forker, seed + 5);
#endif
    for (size_t i = 0; i < WORKERS; i++) start(&births_threads[i], births, (uintptr_t)i);
    for (size_t i = 0; i < WORKERS; i++) pthread_join(births_threads[i], NULL);
    atomic_store(&stop, true);
    while (n) pthread_join(others[--n], NULL);
    for (size_t i = 0; i < SLOTS; i++) drop(atomic_load(&slots[i]));
    for (size_t i = 0; i < STAYERS; i++) drop(stayers[i]);
    for (int h = 0; h < 2; h++) {
        validate(heaps[h], "at the end");
        if (dmi_heap_trim(heaps[h], NULL)) die("trim");
        validate(heaps[h], "after the last trim");
        dmi_stats s = {.size = sizeof s};
        if (dmi_heap_stats(heaps[h], &s, DMI_STATS_DETAIL)) die("stats");
        if (s.busy || s.busy_blocks)
            die("%llu bytes in %llu blocks are left", (unsigned long long)s.busy,
                (unsigned long long)s.busy_blocks);
        if (s.committed > (1 << 20))
            die("%llu bytes stay committed in an empty heap", (unsigned long long)s.committed);
    }
    printf("stress: %lu suspensions, %lu forks, %lu vforks, %lu looks, %lu policies, %lu refused\n",
           atomic_load(&suspensions), atomic_load(&forks), atomic_load(&vforks),
           atomic_load(&looks), atomic_load(&switches), atomic_load(&refusals));
    return 0;
}
