/* moment.c - a profile as JSON: gathered with threads at rest, written when they run again. */
#include "gather.h"
#include "pytypes.h"
#include "sampler.h"
#include "stacks.h"

#include "../block/watch.h"
#include "../heap/fork.h"
#include "../heap/registry.h"
#include "../os/copy.h"
#include "../os/frames.h"
#include "../os/utf8.h"

#include <dmi/dmi.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define HEAPS 1024

/* ---- output: a buffer that is handed on ---------------------------------------------------------------- */

typedef struct output {
    dmi_profile_output to;
    void *argument;
    bool refused;
    size_t used;
    char bytes[4096];
} output;

static void flush(output *out) {
    if (out->used && !out->refused) out->refused = out->to(out->argument, out->bytes, out->used);
    out->used = 0;
}

__attribute__((format(printf, 2, 3))) static void put(output *out, const char *format, ...) {
    if (sizeof out->bytes - out->used < 256) flush(out);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(out->bytes + out->used, 256, format, arguments);
    va_end(arguments);
    if (n > 0) out->used += n < 256 ? (size_t)n : 255;
}

/* Most of a profile are numbers and the marks between them: formatted output took forty times as long. */
static void put_character(output *out, char character) {
    if (sizeof out->bytes == out->used) flush(out);
    out->bytes[out->used++] = character;
}

static void put_plain(output *out, const char *text) {
    while (*text) put_character(out, *text++);
}

static void put_number(output *out, uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    for (; number > UINT32_MAX; number /= 10) digits[--at] = (char)('0' + number % 10);
    uint32_t less = (uint32_t)number;
    do digits[--at] = (char)('0' + less % 10);
    while (less /= 10);
    if (sizeof out->bytes - out->used < sizeof digits) flush(out);
    char *to = out->bytes + out->used;
    out->used += sizeof digits - at;
    while (at < sizeof digits) *to++ = digits[at++];
}

static void put_named(output *out, const char *name, uint64_t number) {
    put_plain(out, name);
    put_number(out, number);
}

static void put_text(output *out, const char *text, size_t length) {
    put_plain(out, "\"");
    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        const unsigned char *at = (const unsigned char *)text + i;
        n = _dmi_utf8_character(at, length - i);
        if (n == 0) {
            put_plain(out, "\\ufffd");
        } else if (*at < ' ' || *at == '"' || *at == '\\' || *at == 0x7f) {
            put(out, "\\u%04x", *at);
        } else {
            if (sizeof out->bytes - out->used < n) flush(out);
            memcpy(out->bytes + out->used, at, n);
            out->used += n;
        }
    }
    put_plain(out, "\"");
}

/* ---- parts --------------------------------------------------------------------------------------------- */

typedef struct list {
    output *out;
    const char *comma;
} list;

static void put_mapping(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                        const char *path, size_t length) {
    list *l = argument;
    put(l->out,
        "%s\n{\"start\":%" PRIu64 ",\"end\":%" PRIu64 ",\"offset\":%" PRIu64 ",\"path\":", l->comma,
        start, end, offset);
    put_text(l->out, path, length);
    put(l->out, "}");
    l->comma = ",";
}

/* Numbers as they stand in tables become numbers of what is written: the n-th one that is there. */
typedef struct numbers {
    uint32_t *of; /* by number of the table; UINT32_MAX: not written */
    uint32_t end; /* numbers are below it; more may have come since */
    size_t bytes;
} numbers;

static bool numbers_begin(numbers *n, uint32_t end) {
    n->end = end;
    size_t page = _dmi_os_page_size();
    n->bytes = (((size_t)end + 1) * sizeof(uint32_t) + page - 1) & ~(page - 1);
    n->of = _dmi_os_reserve(n->bytes, page, DMI_OS_SPARSE, false, "dmi-profile");
    if (n->of && _dmi_os_commit(n->of, n->bytes, DMI_OS_LAZY) == 0) {
        for (uint32_t i = 0; i <= end; i++) n->of[i] = UINT32_MAX;
        return true;
    }
    if (n->of) (void)_dmi_os_release(n->of, n->bytes);
    n->of = NULL;
    return false;
}
static void numbers_end(numbers *n) {
    if (n->of) (void)_dmi_os_release(n->of, n->bytes);
}

static void put_frames(output *out, numbers *frames) {
    uint32_t written = 0, end = _dmi_frames_bound();
    put(out, "],\n\"frames\":[");
    for (uint32_t i = 0; i < end; i++) {
        uint64_t key;
        dmi_frame_text text;
        if (!_dmi_frames_get(i, &key, &text)) continue;
        frames->of[i] = written;
        put_plain(out, written++ ? ",\n" : "\n");
        if (key == DMI_FRAME_CUT) {
            put_plain(out, "{\"file\":\"\",\"function\":\"(cut)\"}");
            continue;
        }
        if (!(key & DMI_FRAME_PYTHON)) {
            put_plain(out, "{\"address\":");
            put_number(out, key);
            put_plain(out, "}");
            continue;
        }
        put_plain(out, "{\"file\":");
        put_text(out, text.file, text.file_length);
        put_plain(out, ",\"function\":");
        put_text(out, text.function, text.function_length);
        put_plain(out, ",\"line\":");
        put_number(out, text.line > 0 ? (uint64_t)text.line : 0);
        put_plain(out, "}");
    }
}

/* All frames of a stack are there and written. */
static bool is_whole(const dmi_stack *stack, const numbers *frames) {
    uint32_t node = atomic_load_explicit(&stack->node, memory_order_acquire), frame;
    while (_dmi_stacks_walk(&node, &frame))
        if (frames->of[frame] == UINT32_MAX) return false;
    return node == 0;
}

/* A stack that is being entered is none. */
static void put_stacks(output *out, const numbers *frames, numbers *stacks) {
    uint32_t written = 0;
    put(out, "],\n\"stacks\":[");
    for (uint32_t i = 1; i < stacks->end; i++) {
        const dmi_stack *stack = _dmi_stacks_get(i);
        if (!stack || !is_whole(stack, frames)) continue;
        uint32_t node = atomic_load_explicit(&stack->node, memory_order_relaxed), frame;
        char before = '[';
        put_plain(out, written ? ",\n" : "\n");
        for (; _dmi_stacks_walk(&node, &frame); before = ',') {
            put_character(out, before);
            put_number(out, frames->of[frame]);
        }
        if (before == '[') put_character(out, before);
        put_plain(out, "]");
        stacks->of[i] = written++;
    }
}

static void put_stack_number(output *out, const numbers *stacks, uint32_t stack) {
    uint32_t number = stack < stacks->end ? stacks->of[stack] : UINT32_MAX;
    if (number == UINT32_MAX) put_plain(out, "null");
    else put_number(out, number);
}

/* What is on a mark's page, as far as it can be read; its last block's beginning may lie behind it. */
typedef struct seen {
    uint64_t from;
    size_t bytes;
    unsigned char copy[DMI_WATCH_PAGE + DMI_PYTHON_START];
} seen;

static void look_at(seen *page, const dmi_spot *spot) {
    page->from = spot->address;
    for (page->bytes = sizeof page->copy; page->bytes >= DMI_WATCH_PAGE;
         page->bytes -= DMI_PYTHON_START)
        if (_dmi_os_copy(page->copy, (const void *)(uintptr_t)page->from, page->bytes)) return;
    page->bytes = 0;
}

/* Too large for the stacks of some threads; one moment at a time. */
static struct moment {
    output out;
    void *handle[HEAPS];
    char name[HEAPS][48];
    char program[4096];
    seen seen;
} moment;

/* The type of the Python object in a block, as the fourth thing that is said of it. Blocks that are none say so, where
 * the process has an interpreter whose objects can be told. The fifth: how many blocks it stands for. */
static void put_more(output *out, const seen *page, const dmi_spot_block *block) {
    size_t at = (size_t)(block->address - page->from);
    const char *type = NULL;
    if (at < page->bytes) {
        size_t bytes = page->bytes - at < block->size ? page->bytes - at : block->size;
        type = _dmi_python_type(page->copy + at, bytes, block->size);
    }
    if (type) {
        put_plain(out, ",");
        put_text(out, *type ? type : "(no object)", strlen(*type ? type : "(no object)"));
    } else if (block->times != 1) {
        put_plain(out, ",null");
    }
    if (block->times == 1) return;
    put_plain(out, ",");
    put_number(out, block->times);
}

static const char *const fates[] = {"pinned", "goes_back", "empty"};

static void put_marks(output *out, const dmi_spots *spots, const numbers *stacks,
                      char (*names)[48]) {
    const char *comma = "";
    _dmi_python_types_begin();
    put(out, "],\n\"marks\":[");
    for (const dmi_spot *spot = NULL; (spot = _dmi_spots_next(spots, spot)); comma = ",") {
        const dmi_spot_block *block = _dmi_spot_blocks(spot);
        put_plain(out, comma);
        put_plain(out, "\n{\"heap\":");
        put_text(out, names[spot->heap], strlen(names[spot->heap]));
        put_named(out, ",\"weight\":", spot->every);
        put_named(out, ".0,\"bytes\":", spot->free > DMI_WATCH_PAGE ? spot->free : DMI_WATCH_PAGE);
        put_named(out, ",\"free\":", spot->free);
        put_plain(out, ",\"fate\":\"");
        put_plain(out, fates[spot->fate]);
        put_plain(out, "\",\"blocks\":[");
        if (spot->blocks) look_at(&moment.seen, spot);
        for (unsigned i = 0; i < spot->blocks; i++) {
            put_plain(out, i ? ",[" : "[");
            put_number(out, block[i].address);
            put_plain(out, ",");
            put_number(out, block[i].size);
            put_plain(out, ",");
            put_stack_number(out, stacks, block[i].stack);
            put_more(out, &moment.seen, &block[i]);
            put_plain(out, "]");
        }
        put_plain(out, "]}");
    }
}

/* Of an entry whose block went meanwhile, or is about to be filled, nothing is said. */
static void put_large(output *out, const numbers *stacks) {
    const char *comma = "";
    put(out, "],\n\"large\":[");
    for (size_t i = 0; i < DMI_SAMPLER_LARGE; i++) {
        const dmi_large *entry = _dmi_sampler_large(i);
        if (!entry) break;
        uint64_t address = atomic_load_explicit(&entry->address, memory_order_acquire);
        if (address <= 2) continue;
        uint64_t size = atomic_load_explicit(&entry->size, memory_order_acquire);
        double weight = atomic_load_explicit(&entry->weight, memory_order_acquire);
        uint32_t stack =
            atomic_load_explicit(&entry->stack, memory_order_acquire) & ~DMI_HOLDER_TOLD;
        if (atomic_load_explicit(&entry->address, memory_order_relaxed) != address) continue;
        dmi_found found = {.size = sizeof found};
        if (dmi_find((const void *)(uintptr_t)address, &found) || found.range.address != address ||
            found.range.state != DMI_STATE_BUSY || found.range.kind == DMI_RANGE_LFH)
            continue;
        uint64_t usable = found.range.size;
        if (size > usable) size = usable; /* it shrank in place */
        put(out, "%s\n{\"address\":%" PRIu64 ",\"size\":%" PRIu64 ",\"retained\":%" PRIu64 ",",
            comma, address, size, usable - size);
        put(out, "\"weight\":%" PRIu64 ".%06u,\"stack\":", (uint64_t)weight,
            (unsigned)((weight - (double)(uint64_t)weight) * 1e6));
        put_stack_number(out, stacks, stack);
        put(out, "}");
        comma = ",";
    }
}

static void put_allocated(output *out, const numbers *stacks) {
    uint64_t none[3] = {0, 0, 0};
    const char *comma = "";
    put(out, "],\n\"allocated\":[");
    for (uint32_t i = 1; i < stacks->end; i++) {
        const dmi_stack *stack = _dmi_stacks_get(i);
        if (!stack) continue;
        uint64_t bytes = atomic_load_explicit(&stack->bytes, memory_order_relaxed);
        uint64_t count = atomic_load_explicit(&stack->count, memory_order_relaxed);
        uint64_t samples = atomic_load_explicit(&stack->samples, memory_order_relaxed);
        if (stacks->of[i] == UINT32_MAX) {
            none[0] += bytes;
            none[1] += count;
            none[2] += samples;
        } else if (samples) {
            put_plain(out, comma);
            put_named(out, "\n[", stacks->of[i]);
            put_named(out, ",", bytes);
            put_named(out, ".0,", count / DMI_STACK_PARTS);
            put_named(out, ".0,", samples);
            put_plain(out, "]");
            comma = ",";
        }
    }
    if (none[2])
        put(out, "%s\n[null,%" PRIu64 ".0,%" PRIu64 ".0,%" PRIu64 "]", comma, none[0],
            none[1] / DMI_STACK_PARTS, none[2]);
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static dmi_lock lock;

/* Whoever writes a moment waits for its output, so a fork does not wait for it. The child has no such thread. */
static void open_lock(void) { atomic_store_explicit(&lock.state, 0, memory_order_relaxed); }
__attribute__((constructor)) static void expect_forks(void) {
    static const dmi_fork_part part = {NULL, NULL, open_lock};
    _dmi_fork_add(&part);
}

static void write_all(output *out, const dmi_spots *spots, numbers *frames, numbers *stacks) {
    uint64_t now = _dmi_os_calendar();
    put(out, "{\"kind\":\"dmi-profile\",\"version\":1,\"one_in\":%" PRIu32 ",\"pid\":%" PRIu64,
        _dmi_sampler_one_in(), _dmi_os_process_id());
    put(out, ",\"time\":%" PRIu64 ".%06u,\"page_bytes\":%zu", now / 1000000,
        (unsigned)(now % 1000000), _dmi_os_page_size());
    size_t length = _dmi_os_program(moment.program, sizeof moment.program);
    if (length) {
        put(out, ",\"program\":");
        put_text(out, moment.program, length);
    }
    list mappings = {out, ""};
    put(out, ",\n\"mappings\":[");
    (void)_dmi_os_code(put_mapping, &mappings);
    put_frames(out, frames);
    put_stacks(out, frames, stacks);
    put_marks(out, spots, stacks, moment.name);
    put_large(out, stacks);
    put_allocated(out, stacks);
    put(out, "],\n\"lost\":{\"stacks\":%" PRIu64 ",\"marks\":%" PRIu64 "},\n\"memory\":%zu}\n",
        _dmi_stacks_lost(), _dmi_watch_lost() + spots->lost + _dmi_sampler_lost(),
        _dmi_sampler_metadata() + _dmi_stacks_metadata() + _dmi_watch_metadata());
    flush(out);
}

int dmi_profile_write(dmi_profile_output to, void *argument) {
    dmi_spots spots;
    numbers frames = {0}, stacks = {0};
    int error = !to ? EINVAL : _dmi_sampler_one_in() == 0 ? ENOENT : 0;
    if (error) {
        errno = error;
        return -1;
    }
    _dmi_lock(&lock);
    error = _dmi_spots_begin(&spots);
    if (!error && (!numbers_begin(&frames, _dmi_frames_bound()) ||
                   !numbers_begin(&stacks, _dmi_stacks_bound())))
        error = ENOMEM;
    if (!error) {
        size_t count = dmi_heap_list(moment.handle, HEAPS);
        if (count > HEAPS) count = HEAPS;
        for (size_t i = 0; i < count; i++) {
            _dmi_heaps_lock(); /* meanwhile nobody destroys it */
            const dmi_heap *heap = _dmi_heap_resolve(moment.handle[i]);
            if (heap) {
                memcpy(moment.name[i], heap->name, sizeof moment.name[i]);
                (void)_dmi_spots_add(&spots, moment.handle[i], (uint32_t)i);
            }
            _dmi_heaps_unlock();
        }
        moment.out.to = to;
        moment.out.argument = argument;
        moment.out.used = 0;
        moment.out.refused = false;
        write_all(&moment.out, &spots, &frames, &stacks);
        if (moment.out.refused) error = ECANCELED;
    }
    numbers_end(&frames);
    numbers_end(&stacks);
    _dmi_spots_end(&spots);
    _dmi_unlock(&lock);
    if (!error) return 0;
    errno = error;
    return -1;
}
