/* test_lfh.c - one subsegment against a model: every block is busy, listed, parked, remote or not carved,
 * and stays so through sweeps, failures, and a take that meets the owner in the middle of an operation. */
#include "block/lfh.h"
#include "block/note.h"
#include "floors.h"

enum { BLOCKS = DMI_RUN_BLOCKS_MAX };

typedef enum state { FREE = 0, BUSY, REMOTE } state;

static struct model {
    dmi_space space;
    dmi_run *run;
    state state[BLOCKS];
    unsigned char fill[BLOCKS];
    size_t busy, remote;
    size_t halfway; /* the block of the owner's unfinished operation, SIZE_MAX: none */
} m;

/* ---- the model -------------------------------------------------------------------------------------- */

static size_t size_of_block(void) { return m.run->block_size; }
static unsigned char *block_at(size_t i) { return (unsigned char *)_dmi_lfh_block(m.run, i); }
static bool taken(void) { return m.run->flags & DMI_RUN_TAKEN; }
static size_t pinned_block(void) {
    if (!(m.run->flags & DMI_RUN_TAKEN_CURRENT) || !m.run->taken) return SIZE_MAX;
    return m.run->taken - 1u;
}
static void *list_head(void) {
    return taken() ? _dmi_lfh_numbered(m.run, m.run->list) : _dmi_lfh_head(m.run);
}

static void hand_out(void *block, uint64_t *seed) {
    size_t i = _dmi_lfh_index(m.run, block);
    ENSURE((char *)block == _dmi_lfh_block(m.run, i) && i < m.run->carved);
    ENSURE_EQ(m.state[i], FREE);
    m.state[i] = BUSY;
    m.busy++;
    m.fill[i] = (unsigned char)test_random(seed);
    memset(block, m.fill[i], size_of_block());
}

static void check_fill(size_t i, size_t from) {
    for (size_t at = from; at < size_of_block(); at++) ENSURE(block_at(i)[at] == m.fill[i]);
}

/* Is the page, counted in the run, one that may be read? */
static bool page_usable(size_t page) {
    return _dmi_fake_state(_dmi_run_base(m.run) + (page << _dmi_page_shift)) == DMI_FAKE_COMMITTED;
}
static void pages_of(size_t i, size_t *first, size_t *last) {
    *first = i * size_of_block() / _dmi_page;
    *last = ((i + 1) * size_of_block() - 1) / _dmi_page;
}
static bool block_usable(size_t i) {
    size_t first, last;
    pages_of(i, &first, &last);
    for (; first <= last; first++)
        if (!page_usable(first)) return false;
    return true;
}

static size_t mark(void *head, unsigned char *seen, unsigned char with) {
    size_t count = 0;
    for (void *b = head; b; b = _dmi_link_get(m.run, b), count++) {
        size_t i = _dmi_lfh_index(m.run, b);
        ENSURE((char *)b == _dmi_lfh_block(m.run, i));
        ENSURE(i < m.run->carved);
        ENSURE_EQ(seen[i], 0);
        ENSURE(i != m.halfway && i != pinned_block());
        seen[i] = with;
    }
    return count;
}

enum { LISTED = 1, ON_REMOTE, PARKED, OUT };

/* Every invariant; fills seen with what each block is. */
static void check_run(unsigned char *seen) {
    dmi_run *run = m.run;
    uint64_t remote = run->remote;
    size_t parked = 0;
    memset(seen, 0, BLOCKS);
    (void)mark(list_head(), seen, LISTED);
    ENSURE_EQ(mark(DMI_REMOTE_HEAD(remote), seen, ON_REMOTE), DMI_REMOTE_COUNT(remote));
    ENSURE_EQ(DMI_REMOTE_COUNT(remote), m.remote);
    ENSURE(run->carved <= run->capacity);
    for (size_t i = 0; i < run->capacity; i++) {
        if (i >= run->carved) {
            ENSURE_EQ(m.state[i], FREE);
            continue;
        }
        bool usable = block_usable(i);
        if (i == m.halfway || i == pinned_block()) {
            ENSURE(usable); /* whatever it becomes, its bytes are there */
            seen[i] = OUT;
        } else if (m.state[i] == BUSY) {
            ENSURE(seen[i] == 0 && usable);
            seen[i] = OUT;
        } else if (m.state[i] == REMOTE) {
            ENSURE(seen[i] == ON_REMOTE && usable);
        } else if (seen[i]) {
            ENSURE(seen[i] == LISTED && usable);
        } else {
            ENSURE(!usable); /* nothing is lost */
            seen[i] = PARKED;
            parked++;
        }
    }
    ENSURE_EQ(run->parked, parked);
    if (run->carved) ENSURE(seen[run->carved - 1] != PARKED); /* carving begins on a usable page */
    if (m.halfway == SIZE_MAX) ENSURE_EQ(_dmi_lfh_busy(run) - run->taken_count, m.busy + m.remote);
    floors_check_space(&m.space);
    size_t ghosts = 0;
    for (size_t i = 0; i < run->capacity; i++) {
        size_t first, last;
        bool any = false;
        pages_of(i, &first, &last);
        for (; first <= last; first++)
            if (_dmi_bits_get(run->segment->committed, run->first + first)) any = true;
        ghosts += !any;
    }
    ENSURE_EQ(_dmi_lfh_ghosts(run), ghosts);
}

static void check(void) {
    static unsigned char seen[BLOCKS];
    check_run(seen);
}

static uint64_t shape(void) {
    uint64_t hash = floors_hash(&m.space);
    for (void *b = list_head(); b; b = _dmi_link_get(m.run, b)) hash = hash * 31 + (uintptr_t)b;
    return hash * 31 + m.run->carved * 65537u + m.run->parked;
}

static void start(unsigned bucket, dmi_os_mode mode) {
    memset(&m, 0, sizeof m);
    m.halfway = SIZE_MAX;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&m.space, mode, false, "test", 0);
    m.run = _dmi_run_alloc(&m.space, _dmi_pages(_dmi_bucket_run(bucket, SIZE_MAX)), 1, DMI_RUN_LFH,
                           false, NULL);
    ENSURE(m.run != NULL);
    ENSURE(m.run->pages <= DMI_RUN_PAGES_MAX);
    _dmi_lfh_init(m.run, bucket);
    ENSURE(m.run->capacity <= BLOCKS);
    ENSURE_EQ(m.run->capacity, _dmi_run_size(m.run) / size_of_block());
    check();
}

static void finish(void) {
    (void)_dmi_run_free(&m.space, m.run);
    _dmi_space_release(&m.space);
    ENSURE_EQ(_dmi_fake_redundant(), 0);
}

/* ---- operations ----------------------------------------------------------------------------------------- */

static bool pop(uint64_t *seed) {
    void *block = _dmi_lfh_head(m.run);
    if (!block) return false;
    ENSURE(_dmi_lfh_marked(m.run, block));
    _dmi_lfh_set_head(m.run, _dmi_link_get(m.run, block));
    m.run->used++;
    hand_out(block, seed);
    return true;
}

static void alloc(uint64_t *seed) {
    if (pop(seed)) return;
    int error = 0, sum = 0;
    uint64_t before = shape();
    unsigned got = _dmi_lfh_collect(m.run, test_random(seed) % 2);
    if (got) {
        ENSURE_EQ(got, m.remote);
        for (size_t i = 0; i < m.run->carved; i++)
            if (m.state[i] == REMOTE) m.state[i] = FREE;
        m.remote = 0;
        ENSURE(pop(seed));
        return;
    }
    bool park_first = test_random(seed) % 2;
    for (int turn = 0; turn < 2; turn++) {
        size_t parked = m.run->parked, carved = m.run->carved;
        if (turn == park_first) {
            if (_dmi_lfh_carve(m.run, &error)) {
                ENSURE(m.run->carved > carved);
                check();
                ENSURE(pop(seed));
                return;
            }
            ENSURE(error || carved == m.run->capacity);
        } else {
            if (_dmi_lfh_unpark(m.run, &error)) {
                ENSURE(m.run->parked < parked);
                check();
                ENSURE(pop(seed));
                return;
            }
            ENSURE(error || parked == 0);
        }
        if (error && !floors_no_undo) ENSURE_EQ(shape(), before);
        sum |= error;
    }
    ENSURE(sum || m.busy == m.run->capacity);
}

static size_t any_busy(uint64_t *seed) {
    if (m.busy == 0) return SIZE_MAX;
    for (;;) {
        size_t i = test_random(seed) % m.run->carved;
        if (m.state[i] == BUSY && i != m.halfway) return i;
    }
}

static void free_local(size_t i) {
    check_fill(i, 0);
    _dmi_link_set(m.run, block_at(i), _dmi_lfh_head(m.run));
    _dmi_lfh_set_head(m.run, block_at(i));
    m.run->used--;
    m.state[i] = FREE;
    m.busy--;
}

static void free_remote(size_t i) {
    check_fill(i, 0);
    bool pending = m.run->remote & DMI_REMOTE_PENDING;
    ENSURE_EQ(_dmi_lfh_push_remote(m.run, block_at(i), 0), !pending);
    m.state[i] = REMOTE;
    m.busy--;
    m.remote++;
}

static void collect(bool keep) {
    bool pending = m.run->remote & DMI_REMOTE_PENDING;
    ENSURE_EQ(_dmi_lfh_collect(m.run, keep), m.remote);
    ENSURE_EQ(m.run->remote, keep && pending ? DMI_REMOTE_PENDING : 0);
    for (size_t i = 0; i < m.run->carved; i++)
        if (m.state[i] == REMOTE) m.state[i] = FREE;
    m.remote = 0;
}

/* The map and the free pages as the model has them. */
static void check_map(bool with_remote, dmi_blockmap *map, size_t *pinned, uint64_t pages[2]) {
    static unsigned char seen[BLOCKS];
    const void *bad = NULL;
    size_t count = 0;
    check_run(seen);
    memset(map, 0xff, sizeof *map); /* garbage must not matter */
    ENSURE(_dmi_lfh_free_map(m.run, with_remote, map, pinned, &bad));
    ENSURE_EQ(*pinned, pinned_block());
    for (size_t i = 0; i < m.run->carved; i++) {
        bool expected =
            seen[i] == LISTED || seen[i] == PARKED || (with_remote && seen[i] == ON_REMOTE);
        ENSURE_EQ(_dmi_map_get(map, i), expected);
    }
    size_t found = _dmi_lfh_free_pages(m.run, map, *pinned, pages);
    for (size_t p = 0; p < m.run->pages; p++) {
        bool empty = page_usable(p);
        for (size_t i = p * _dmi_page / size_of_block();
             i < m.run->carved && i * size_of_block() < (p + 1) * _dmi_page; i++)
            if (!_dmi_map_get(map, i) || i == *pinned) empty = false;
        ENSURE_EQ((pages[p / 64] >> (p % 64)) & 1, empty);
        count += empty;
    }
    ENSURE_EQ(found, count);
}

/* What is handed out next lies on pages that hold something, lowest address first. */
static void check_order(const uint64_t empty[2]) {
    int half = 0;
    size_t last = 0;
    for (void *b = list_head(); b; b = _dmi_link_get(m.run, b)) {
        size_t i = _dmi_lfh_index(m.run, b), first, end;
        pages_of(i, &first, &end);
        int here =
            ((empty[first / 64] >> (first % 64)) & 1) && ((empty[end / 64] >> (end % 64)) & 1);
        ENSURE(here >= half);
        if (here == half) ENSURE(i >= last);
        half = here;
        last = i;
    }
}

/* odds: of 16, that a page which could go does. */
static void sweep(uint64_t *seed, unsigned odds) {
    dmi_blockmap map;
    size_t pinned;
    uint64_t pages[2], empty[2];
    collect(true);
    check_map(test_random(seed) % 2, &map, &pinned, pages);
    memcpy(empty, pages, sizeof empty);
    for (size_t p = 0; p < m.run->pages; p++)
        if (test_random(seed) % 16 >= odds) pages[p / 64] &= ~(UINT64_C(1) << (p % 64));
    _dmi_lfh_park(m.run, &map, pinned, pages);
    check_order(empty);
    for (void *b = list_head(); b; b = _dmi_link_get(m.run, b)) {
        size_t first, last;
        pages_of(_dmi_lfh_index(m.run, b), &first, &last);
        for (; first <= last; first++) ENSURE(!((pages[first / 64] >> (first % 64)) & 1));
    }
    for (size_t p = 0; p < m.run->pages; p++) {
        if (!((pages[p / 64] >> (p % 64)) & 1)) continue;
        size_t first = m.run->first + p;
        if (test_random(seed) % 3) ENSURE_EQ(_dmi_pages_decommit(m.run->segment, first, 1), 0);
        else ENSURE_EQ(_dmi_pages_offer(m.run->segment, first, 1), 0);
    }
}

/* ---- random lives of one run --------------------------------------------------------------------------- */

static const unsigned some_buckets[] = {0, 2, 6, 13, 22, 33, 41, 47, 55, 63, 71};
enum { SOME = sizeof some_buckets / sizeof *some_buckets };

static void live(unsigned bucket, dmi_os_mode mode, uint64_t seed, unsigned long steps,
                 bool failures) {
    start(bucket, mode);
    for (floors_step = 0; floors_step < steps; floors_step++) {
        bool grow = floors_step / (m.run->capacity + 8) % 2 == 0;
        uint64_t kind = test_random(&seed) % 64;
        if (failures && test_random(&seed) % 8 == 0)
            _dmi_os_fail_at(1 + test_random(&seed) % 2, false);
        size_t i = any_busy(&seed);
        if (kind == 0 && !failures) sweep(&seed, (unsigned)(test_random(&seed) % 17));
        else if (kind == 1) collect(test_random(&seed) % 2);
        else if (i == SIZE_MAX || test_random(&seed) % 8 < (grow ? 6 : 2)) alloc(&seed);
        else if (test_random(&seed) % 4 == 0) free_remote(i);
        else free_local(i);
        _dmi_os_fail_at(0, false);
        if (kind == 2 && failures) sweep(&seed, 12);
        if (floors_step % 8 == 0) check();
    }
    while (m.busy) free_local(any_busy(&seed));
    sweep(&seed, 16);
    check();
    /* Nothing is busy, all pages went: the run is as new. */
    ENSURE_EQ(m.run->carved, 0);
    ENSURE_EQ(m.run->parked, 0);
    ENSURE(_dmi_lfh_head(m.run) == NULL);
    ENSURE_EQ(m.run->used - m.run->bias, 0);
    for (size_t p = 0; p < m.run->pages; p++) ENSURE(!page_usable(p));
    finish();
}

TEST_EACH_PAGE(every_block_is_somewhere_lazy) {
    for (unsigned b = 0; b < SOME; b++) live(some_buckets[b], DMI_OS_LAZY, b, 1500, false);
}
TEST_EACH_PAGE(every_block_is_somewhere_strict) {
    for (unsigned b = 0; b < SOME; b++) live(some_buckets[b], DMI_OS_STRICT, b + 50, 1000, false);
}
TEST_EACH_PAGE(every_block_is_somewhere_after_failures) {
    for (unsigned b = 0; b < SOME; b++) live(some_buckets[b], DMI_OS_STRICT, b + 90, 1500, true);
}

/* Whoever parks and is refused the page links the blocks again. */
TEST_EACH_PAGE(refused_pages_are_linked_again) {
    for (unsigned b = 0; b < SOME; b++) {
        uint64_t seed = b;
        start(some_buckets[b], DMI_OS_LAZY);
        for (size_t i = 0; i < m.run->capacity; i++) alloc(&seed);
        ENSURE_EQ(m.busy, m.run->capacity);
        for (size_t i = 0; i < m.run->capacity; i++)
            if (test_random(&seed) % 16) free_local(i);
        for (int round = 0; round < 20; round++) {
            dmi_blockmap map;
            size_t pinned, alone = SIZE_MAX;
            uint64_t pages[2];
            check_map(false, &map, &pinned, pages);
            for (size_t p = 0; p < m.run->pages; p++)
                if ((pages[p / 64] >> (p % 64)) & 1 &&
                    (alone == SIZE_MAX || test_random(&seed) % 4 == 0))
                    alone = p;
            if (alone == SIZE_MAX) break;
            uint64_t one[2] = {0, 0};
            one[alone / 64] = UINT64_C(1) << (alone % 64);
            size_t carved = m.run->carved;
            _dmi_lfh_park(m.run, &map, pinned, one);
            if (round % 2 == 0) {
                _dmi_os_fail_at(1, false);
                ENSURE(_dmi_pages_decommit(m.run->segment, m.run->first + alone, 1) != 0);
                _dmi_os_fail_at(0, false);
                _dmi_lfh_relink(m.run, one);
            } else {
                ENSURE_EQ(_dmi_pages_decommit(m.run->segment, m.run->first + alone, 1), 0);
            }
            check();
            ENSURE(m.run->carved <= carved);
        }
        finish();
    }
}

/* ---- take and repair ----------------------------------------------------------------------------------- */

/* The owner's operations, an instruction at a time. */
typedef struct owner {
    bool frees;
    int step;
    void *block, *head, *next;
    int32_t used;
} owner;

static void owner_step(owner *o) {
    dmi_run *run = m.run;
    switch (o->step++) {
    case 0:
        o->head = _dmi_lfh_head(run);
        if (!o->frees) o->block = o->head;
        break;
    case 1:
        if (o->frees) _dmi_link_set(run, o->block, o->head);
        else o->next = _dmi_link_get(run, o->block);
        break;
    case 2: _dmi_lfh_set_head(run, o->frees ? o->block : o->next); break;
    case 3: o->used = run->used; break;
    case 4: run->used = o->used + (o->frees ? -1 : 1); break;
    case 5: /* behind the head */
        if (!o->frees) memset(o->block, 0, 16);
        break;
    default: break;
    }
}
enum { OWNER_STEPS = 6 };

/* What others do to a taken run while its owner is suspended. */
static void others(uint64_t *seed, bool busy_time) {
    check();
    for (int i = 0; busy_time && i < 40; i++) {
        size_t block = any_busy(seed);
        int error;
        switch (test_random(seed) % 8) {
        case 0: sweep(seed, (unsigned)(test_random(seed) % 17)); break;
        case 1: collect(true); break;
        case 2: (void)_dmi_lfh_unpark(m.run, &error); break;
        default:
            if (block != SIZE_MAX && m.busy > 2) free_remote(block);
        }
        check();
    }
    sweep(seed, 16);
    check();
}

static void take_once(uint64_t *seed, bool current, bool frees, int at, bool busy_time) {
    owner o = {.frees = frees};
    if (frees) {
        size_t i = any_busy(seed);
        if (i == SIZE_MAX) return;
        o.block = block_at(i);
        m.halfway = i;
    } else {
        if (!current || !_dmi_lfh_head(m.run)) return; /* no fast path there */
        m.halfway = _dmi_lfh_index(m.run, _dmi_lfh_head(m.run));
    }
    if (at == 0) m.halfway = SIZE_MAX; /* nothing in flight */
    for (int i = 0; i < at; i++) owner_step(&o);
    bool before_end = at < (frees ? OWNER_STEPS - 1 : OWNER_STEPS);
    if (!before_end) { /* it ended just before the take */
        m.halfway = SIZE_MAX;
        size_t i = _dmi_lfh_index(m.run, o.block);
        if (frees) {
            m.state[i] = FREE;
            m.busy--;
        } else hand_out(o.block, seed);
    }
    void *head = _dmi_lfh_head(m.run);
    _dmi_lfh_take(m.run, current);
    ENSURE(taken() && _dmi_lfh_numbered(m.run, m.run->taken) == head);
    _dmi_lfh_take(m.run, !current); /* a second take changes nothing */
    ENSURE(taken() && _dmi_lfh_numbered(m.run, m.run->taken) == head);
    ENSURE_EQ(!!(m.run->flags & DMI_RUN_TAKEN_CURRENT), current);
    /* Before its head is stored, the block that an allocation takes is the pinned one; after, and in a free,
     * it is in no list until the owner goes on. A freed block that is the head already is pinned or listed. */
    size_t block = at ? _dmi_lfh_index(m.run, o.block) : SIZE_MAX;
    if (before_end && at > 2 && frees) {
        m.halfway = SIZE_MAX; /* the free took effect, only the count is missing */
        m.state[block] = FREE;
        m.busy--;
    } else if (before_end && at && !frees && at <= 2) {
        m.halfway = SIZE_MAX; /* pinned */
        ENSURE_EQ(pinned_block(), block);
    }
    /* Of a free the count is missing; of an allocation it may be ahead of the block that is handed out. */
    int32_t missing = before_end && (frees ? at > 2 : at > 4);
    m.run->used -= missing; /* only for the check: the owner stores what it computed */
    if (!frees && at > 2 && before_end) ENSURE_EQ(m.state[block], FREE);
    others(seed, busy_time);
    m.run->used += missing;
    if (at && before_end) {
        for (int i = at; i < OWNER_STEPS; i++) owner_step(&o);
        m.halfway = SIZE_MAX;
        if (frees && at <= 2) {
            m.state[block] = FREE;
            m.busy--;
        }
    }
    _dmi_lfh_repair(m.run);
    ENSURE(!(m.run->flags & (DMI_RUN_TAKEN | DMI_RUN_TAKEN_CURRENT)));
    ENSURE_EQ(m.run->taken_count, 0);
    if (!frees && at && before_end) hand_out(o.block, seed);
    check();
    uint64_t shape_now = shape();
    _dmi_lfh_repair(m.run); /* so does a second repair */
    ENSURE_EQ(shape(), shape_now);
    check();
}

static void take_everywhere(unsigned bucket, uint64_t seed) {
    start(bucket, DMI_OS_LAZY);
    m.run->bias = DMI_BIAS_CURRENT;
    m.run->used = DMI_BIAS_CURRENT;
    /* All cases: list empty, of one block, longer; allocation or free, at each instruction. */
    for (int fill = 0; fill < 4; fill++)
        for (int current = 0; current < 2; current++)
            for (int frees = 0; frees < 2; frees++)
                for (int at = 0; at <= OWNER_STEPS; at++) {
                    floors_step = (unsigned long)(fill * 1000 + current * 100 + frees * 10 + at);
                    size_t want = fill == 3 ? m.run->capacity / 2u : (size_t)fill;
                    for (int guard = 0; m.busy < m.run->capacity && guard < BLOCKS; guard++)
                        alloc(&seed);
                    while (_dmi_lfh_head(m.run)) (void)pop(&seed);
                    collect(false);
                    while (_dmi_lfh_head(m.run)) (void)pop(&seed);
                    for (size_t i = 0; i < want && m.busy > 1; i++) free_local(any_busy(&seed));
                    check();
                    take_once(&seed, current, frees, at, fill == 3 || at % 2);
                }
    while (m.busy) free_local(any_busy(&seed));
    finish();
}

TEST_EACH_PAGE(a_take_at_any_instruction_is_repaired) {
    for (unsigned b = 0; b < SOME; b++) take_everywhere(some_buckets[b], b + 7);
}

/* ---- counting and damage ---------------------------------------------------------------------------------- */

TEST_EACH_PAGE(the_bias_never_changes_who_is_busy) {
    uint64_t seed = 3;
    start(4, DMI_OS_LAZY);
    for (int i = 0; i < 30; i++) alloc(&seed);
    static const int32_t biases[] = {0, DMI_BIAS_CURRENT, -25, 0};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
        _dmi_lfh_set_bias(m.run, biases[i]);
        ENSURE_EQ(m.run->bias, biases[i]);
        ENSURE_EQ(m.run->used, 30 + biases[i]);
        ENSURE_EQ(_dmi_lfh_busy(m.run), 30);
    }
    finish();
}

TEST_EACH_PAGE(a_damaged_link_is_found) {
    uint64_t seed = 3;
    start(4, DMI_OS_LAZY);
    for (int i = 0; i < 20; i++) alloc(&seed);
    for (size_t i = 0; i < 10; i++) free_local(i);
    unsigned char *head = _dmi_lfh_head(m.run);
    void *links[] = {head + 8,
                     head,
                     (char *)_dmi_run_base(m.run) - 80,
                     block_at(m.run->carved),
                     (void *)(uintptr_t)0x10,
                     (void *)UINTPTR_MAX,
                     block_at(5)};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        dmi_blockmap map;
        size_t pinned;
        const void *bad = NULL;
        void *old = _dmi_link_get(m.run, head);
        _dmi_link_set(m.run, head, links[i]);
        bool sound = _dmi_lfh_free_map(m.run, false, &map, &pinned, &bad);
        if (links[i] == block_at(5)) { /* skips blocks: still a list */
            ENSURE(sound);
        } else {
            ENSURE(!sound);
            ENSURE(bad != NULL);
        }
        _dmi_link_set(m.run, head, old);
    }
    finish();
}

/* An allocation has read the link of the head block; somebody writes zeroes over it; a taker comes; the allocation goes
 * on. The head block is handed out, and no list may have it. */
TEST_EACH_PAGE(a_block_whose_link_was_lost_in_flight_is_not_listed) {
    uint64_t seed = 3;
    start(4, DMI_OS_LAZY);
    for (int i = 0; i < 20; i++) alloc(&seed);
    for (size_t i = 0; i < 10; i++) free_local(i);
    for (int goes_on = 0; goes_on < 2; goes_on++) {
        char *head = _dmi_lfh_head(m.run), *next = _dmi_link_get(m.run, head);
        memset(head, 0, 16);
        _dmi_lfh_take(m.run, true);
        if (goes_on) _dmi_lfh_set_head(m.run, next);
        _dmi_note.kind = DMI_NOTE_NONE;
        _dmi_lfh_repair(m.run);
        ENSURE_EQ(_dmi_note.kind, goes_on ? DMI_NOTE_LINK : DMI_NOTE_NONE);
        for (char *block = _dmi_lfh_head(m.run); block; block = _dmi_link_get(m.run, block))
            ENSURE(!goes_on || block != head);
        if (!goes_on) { /* nothing was in flight: the head block is free, and all that is left */
            ENSURE(_dmi_lfh_head(m.run) == head && !_dmi_link_get(m.run, head));
            _dmi_link_set(m.run, head, next);
        }
    }
    _dmi_note.kind = DMI_NOTE_NONE;
}

/* ---- remote frees from real threads ------------------------------------------------------------------------ */

static _Atomic size_t next_block, entered;

static void push_many(void *argument) {
    (void)argument;
    for (;;) {
        size_t i = atomic_fetch_add(&next_block, 1);
        if (i >= m.run->carved) return;
        if (_dmi_lfh_push_remote(m.run, block_at(i), 0)) atomic_fetch_add(&entered, 1);
    }
}

TEST(remote_frees_of_many_threads_all_arrive) {
    _dmi_os_use(&_dmi_os_native);
    dmi_space space;
    REQUIRE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    for (int round = 0; round < 20; round++) {
        dmi_run *run =
            _dmi_run_alloc(&space, 16 * 4096 >> _dmi_page_shift, 1, DMI_RUN_LFH, false, NULL);
        REQUIRE(run != NULL);
        _dmi_lfh_init(run, 0);
        int error;
        while (_dmi_lfh_carve(run, &error)) {
        }
        _dmi_lfh_set_head(run, NULL);
        run->used = run->carved;
        m.run = run;
        next_block = entered = 0;
        test_thread *threads[3];
        for (int t = 0; t < 3; t++) threads[t] = test_thread_start(push_many, NULL);
        unsigned got = 0;
        while (next_block < run->carved) got += _dmi_lfh_collect(run, true);
        for (int t = 0; t < 3; t++) test_thread_join(threads[t]);
        got += _dmi_lfh_collect(run, true);
        CHECK_EQ(got, run->carved);
        CHECK_EQ(run->used, 0);
        CHECK_EQ(entered, 1); /* the pending bit stayed: entered once */
        CHECK_EQ(run->remote, DMI_REMOTE_PENDING);
        CHECK_EQ(_dmi_lfh_collect(run, false), 0);
        CHECK_EQ(run->remote, 0);
        dmi_blockmap map;
        size_t pinned;
        CHECK(_dmi_lfh_free_map(run, false, &map, &pinned, NULL));
        for (size_t i = 0; i < run->carved; i++) CHECK(_dmi_map_get(&map, i));
        (void)_dmi_run_free(&space, run);
    }
    _dmi_space_release(&space);
}
