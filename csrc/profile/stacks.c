/* stacks.c - tables of strings, frames and stacks that only grow, entered without locks. */
#include "stacks.h"

#include "../os/lock.h"
#include "../os/os.h"
#include "../os/own.h"
#include "pyframes.h"

#include <errno.h>
#include <string.h>

/* Powers of two. A table with keys takes three quarters of that. In all 3 MiB of addresses, touched as they fill. */
#define NODES 65536u
#define STACKS DMI_STACKS_MOST
#define FRAMES 16384u
#define TEXTS 4096u
#define LETTERS 524288u

typedef struct node {
    _Atomic uint64_t key;    /* of parent and frame; 0: free */
    _Atomic uint32_t parent; /* number, plus 1; 0: the outermost */
    _Atomic uint32_t frame;  /* number, plus 1; 0: it is being entered */
    _Atomic uint32_t stack;  /* the stack that ends here; 0: none */
} node;

typedef struct frame {
    _Atomic uint64_t key;    /* 0: free */
    uint32_t file, function; /* Python: texts, plus 1 */
    int32_t line;
    _Atomic bool whole;
} frame;

typedef struct text {
    _Atomic uint64_t key;
    uint32_t first, length;
    _Atomic bool whole;
} text;

typedef struct tables {
    node node[NODES];
    dmi_stack stack[STACKS];
    frame frame[FRAMES];
    text text[TEXTS];
    char letter[LETTERS];
} tables;

static tables *all;
static dmi_lock lock;
static _Atomic uint32_t nodes, stacks, frames, texts, letters;
static _Atomic uint64_t lost;

static size_t bytes_of_tables(void) {
    size_t page = _dmi_os_page_size();
    return (sizeof(tables) + page - 1) & ~(page - 1);
}

int _dmi_stacks_setup(void) {
    int error = 0;
    _dmi_lock(&lock);
    if (!all) {
        tables *made = _dmi_own_reserve(bytes_of_tables(), "dmi-profile");
        if (!made || _dmi_os_commit(made, bytes_of_tables(), DMI_OS_LAZY)) error = ENOMEM;
        else __atomic_store_n(&all, made, __ATOMIC_RELEASE);
    }
    _dmi_unlock(&lock);
    return error;
}

void _dmi_stacks_reset(void) {
    for (uint32_t i = 1; i < _dmi_stacks_bound(); i++) {
        dmi_stack *stack = &all->stack[i - 1];
        atomic_store_explicit(&stack->bytes, 0, memory_order_relaxed);
        atomic_store_explicit(&stack->count, 0, memory_order_relaxed);
        atomic_store_explicit(&stack->samples, 0, memory_order_relaxed);
    }
    atomic_store_explicit(&lost, 0, memory_order_relaxed);
}

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}

/* Room for n more of an array of most; UINT32_MAX: there is none. */
static uint32_t take(_Atomic uint32_t *used, uint32_t n, uint32_t most) {
    uint32_t at = atomic_load_explicit(used, memory_order_relaxed);
    do {
        if (at > most || n > most - at) return UINT32_MAX;
    } while (!atomic_compare_exchange_weak_explicit(used, &at, at + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    return at;
}

/* So much of a table may be in use: three quarters at most, or it takes long to look something up. */
static uint32_t most_of(uint32_t size, dmi_stack_kind kind) {
    return size / 16 * (12 - (uint32_t)kind);
}

/* Where key stands or may stand among size places of step bytes that begin with their keys, of which so many may be
 * used; *fresh: it was entered now, and the rest is the caller's to fill. UINT32_MAX: no room. */
static uint32_t place(void *array, size_t step, uint32_t size, uint32_t most,
                      _Atomic uint32_t *used, uint64_t key, bool *fresh) {
    *fresh = false;
    for (uint32_t i = (uint32_t)(key >> 20) & (size - 1);; i = (i + 1) & (size - 1)) {
        _Atomic uint64_t *there = (_Atomic uint64_t *)(void *)((char *)array + i * step);
        uint64_t now = atomic_load_explicit(there, memory_order_relaxed);
        if (now == key) return i;
        if (now) continue;
        if (take(used, 1, most) == UINT32_MAX) return UINT32_MAX;
        if (atomic_compare_exchange_strong_explicit(there, &now, key, memory_order_relaxed,
                                                    memory_order_relaxed)) {
            *fresh = true;
            return i;
        }
        if (now == key) return i;
    }
}

/* ---- entering ------------------------------------------------------------------------------------------ */

/* The number of a text, plus 1; 0: no room. */
static uint32_t enter_text(const char *from, size_t length) {
    bool fresh;
    uint64_t key = mix(UINT64_C(0x2545f4914f6cdd1d), length);
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word = 0;
        memcpy(&word, from + i, length - i < 8 ? length - i : 8);
        key = mix(key, word);
    }
    key |= 1;
    uint32_t i = place(all->text, sizeof(text), TEXTS, TEXTS / 4 * 3, &texts, key, &fresh);
    if (i == UINT32_MAX) return 0;
    if (fresh) {
        uint32_t at = take(&letters, (uint32_t)length, LETTERS);
        if (at == UINT32_MAX) return 0;
        memcpy(all->letter + at, from, length);
        all->text[i].first = at;
        all->text[i].length = (uint32_t)length;
        atomic_store_explicit(&all->text[i].whole, true, memory_order_release);
    }
    return i + 1;
}

static uint32_t enter_frame(const dmi_frame *from, dmi_stack_kind kind) {
    bool fresh;
    /* Addresses are spread; they are the keys all the same. */
    uint64_t hash = from->key * UINT64_C(0x9e3779b97f4a7c15);
    for (uint32_t i = (uint32_t)(hash >> 40) & (FRAMES - 1);; i = (i + 1) & (FRAMES - 1)) {
        frame *f = &all->frame[i];
        uint64_t now = atomic_load_explicit(&f->key, memory_order_relaxed);
        if (now == from->key) return i;
        if (now) continue;
        if (take(&frames, 1, most_of(FRAMES, kind)) == UINT32_MAX) return UINT32_MAX;
        fresh = atomic_compare_exchange_strong_explicit(&f->key, &now, from->key,
                                                        memory_order_relaxed, memory_order_relaxed);
        if (!fresh && now == from->key) return i;
        if (!fresh) continue;
        dmi_python_where where;
        if (from->code && _dmi_python_where(from, &where)) {
            f->file = enter_text(where.file, where.file_length);
            f->function = enter_text(where.function, where.function_length);
            f->line = where.line;
        }
        atomic_store_explicit(&f->whole, true, memory_order_release);
        return i;
    }
}

uint32_t _dmi_frames_enter(const dmi_frame *from) {
    return all ? enter_frame(from, DMI_STACK_LINE) : UINT32_MAX;
}

uint32_t _dmi_stacks_enter(uint32_t caller, const dmi_frame *from, dmi_stack_kind kind) {
    bool fresh;
    if (!all) return 0;
    uint64_t key = mix(mix(UINT64_C(0x9e3779b97f4a7c15), caller), from->key) | 1;
    uint32_t i = place(all->node, sizeof(node), NODES, most_of(NODES, kind), &nodes, key, &fresh);
    if (i == UINT32_MAX) return 0;
    node *n = &all->node[i];
    if (__builtin_expect(atomic_load_explicit(&n->frame, memory_order_relaxed) == 0, 0)) {
        uint32_t number = enter_frame(from, kind);
        if (number == UINT32_MAX) return 0;
        atomic_store_explicit(&n->parent, caller, memory_order_relaxed);
        atomic_store_explicit(&n->frame, number + 1, memory_order_release);
    }
    return i + 1;
}

static uint32_t number_of(uint32_t at, dmi_stack_kind kind) {
    if (at == 0) return 0;
    node *n = &all->node[at - 1];
    uint32_t number = atomic_load_explicit(&n->stack, memory_order_relaxed);
    if (number) return number;
    uint32_t taken = take(&stacks, 1, STACKS / 8 * (8 - (uint32_t)kind));
    if (taken == UINT32_MAX) return 0;
    atomic_store_explicit(&all->stack[taken].node, at, memory_order_release);
    /* Where another thread was faster, this one's number stays unused. */
    if (atomic_compare_exchange_strong_explicit(&n->stack, &number, taken + 1, memory_order_release,
                                                memory_order_relaxed))
        return taken + 1;
    return number;
}

uint32_t _dmi_stacks_number(uint32_t at, dmi_stack_kind kind) {
    uint32_t number = number_of(at, kind);
    if (number == 0 && kind == DMI_STACK_LINE)
        atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
    return number;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

uint32_t _dmi_stacks_bound(void) {
    uint32_t n = atomic_load_explicit(&stacks, memory_order_relaxed);
    return all ? (n < STACKS ? n : STACKS) + 1 : 0;
}

dmi_stack *_dmi_stacks_get(uint32_t number) {
    if (!all || number == 0 || number > STACKS) return NULL;
    dmi_stack *stack = &all->stack[number - 1];
    return atomic_load_explicit(&stack->node, memory_order_relaxed) ? stack : NULL;
}

bool _dmi_stacks_walk(uint32_t *at, uint32_t *number) {
    if (*at == 0 || *at > NODES) return false;
    const node *n = &all->node[*at - 1];
    uint32_t found = atomic_load_explicit(&n->frame, memory_order_acquire);
    if (found == 0) return false;
    *number = found - 1;
    *at = atomic_load_explicit(&n->parent, memory_order_relaxed);
    return true;
}

uint32_t _dmi_frames_bound(void) { return all ? FRAMES : 0; }

static void text_of(uint32_t number, const char **at, uint32_t *length) {
    *at = "";
    *length = 0;
    if (number == 0) return;
    const text *t = &all->text[number - 1];
    if (!atomic_load_explicit(&t->whole, memory_order_acquire)) return;
    *at = all->letter + t->first;
    *length = t->length;
}

bool _dmi_frames_get(uint32_t number, uint64_t *key, dmi_frame_text *out) {
    if (!all || number >= FRAMES) return false;
    const frame *f = &all->frame[number];
    *key = atomic_load_explicit(&f->key, memory_order_relaxed);
    if (*key == 0) return false;
    memset(out, 0, sizeof *out);
    if (!(*key & DMI_FRAME_PYTHON)) return true;
    bool whole = atomic_load_explicit(&f->whole, memory_order_acquire);
    text_of(whole ? f->file : 0, &out->file, &out->file_length);
    text_of(whole ? f->function : 0, &out->function, &out->function_length);
    out->line = whole ? f->line : 0;
    return true;
}

uint64_t _dmi_stacks_lost(void) { return atomic_load_explicit(&lost, memory_order_relaxed); }

/* Entries of tables with keys are spread: each may have touched a page. */
static size_t touched(uint32_t entries, size_t most) {
    size_t n = (size_t)entries * _dmi_os_page_size();
    return n < most ? n : most;
}

size_t _dmi_stacks_metadata(void) {
    if (!all) return 0;
    size_t n = touched(atomic_load_explicit(&nodes, memory_order_relaxed), sizeof all->node);
    n += touched(atomic_load_explicit(&frames, memory_order_relaxed), sizeof all->frame);
    n += touched(atomic_load_explicit(&texts, memory_order_relaxed), sizeof all->text);
    n += sizeof(dmi_stack) * _dmi_stacks_bound();
    return n + atomic_load_explicit(&letters, memory_order_relaxed);
}
