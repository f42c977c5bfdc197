/* pyframes.c - Python frames as CPython 3.11 to 3.14 lays them out.
 *
 * From 3.13 on the interpreter says where the fields of its structs lie, in a table at the beginning of _PyRuntime whose
 * own order is that of its version. For 3.11 and 3.12 the offsets are those of every build for 64 bits. Line tables
 * have had one format since 3.11.
 */
#include "pyframes.h"

#include "../os/frames.h"

#include <string.h>

typedef struct layout {
    bool by_cframe; /* the thread leads to its frame through a struct on the stack */
    uint32_t frame_of_thread;
    uint32_t frame_of_cframe, previous_cframe;
    uint32_t previous, code, instruction, owner;
    uint32_t is_entry; /* 3.11: it says itself that it was called by native code; else 0 */
    uint32_t file, function, lines, first_line, instructions;
    uint32_t type;
    uint32_t text_length, text_state, ascii_size;
    uint32_t bytes_size, bytes_data;
} layout;

static const layout at_3_11 = {true, 56,  8,  16,  48, 32, 56, 69, 68, 112,
                               128,  136, 72, 184, 8,  16, 32, 48, 16, 32};
static const layout at_3_12 = {true, 56,  0,  8,   8, 0,  56, 70, 0,  112,
                               128,  136, 68, 192, 8, 16, 32, 40, 16, 32};

#define OWNER_GENERATOR 1
#define OWNER_NATIVE 3 /* from there on no Python code is run in the frame */
#define LAST_OWNER 5

static layout where;
static _Atomic(void *(*)(void)) thread_now; /* NULL: no interpreter */
static uint64_t code_type, eval_start, eval_end;

/* ---- finding the interpreter --------------------------------------------------------------------------- */

/* Numbers of words in the interpreter's own table. */
typedef struct word_numbers {
    uint32_t current_frame, previous, executable, instruction, owner;
    uint32_t file, function, lines, first_line, instructions, type;
} word_numbers;
static const word_numbers words_3_13 = {23, 29, 30, 31, 33, 35, 37, 38, 39, 43, 45};
static const word_numbers words_3_14 = {26, 32, 33, 34, 36, 40, 42, 43, 44, 48, 51};

static bool from_table(const uint64_t *table, layout *out) {
    if (memcmp(table, "xdebugpy", 8) != 0) return false;
    uint32_t minor = (uint32_t)(table[1] >> 16 & 0xff);
    if (table[1] >> 24 != 3 || minor < 13 || minor > 14) return false;
    if (table[2]) return false; /* without the GIL each thread has instructions of its own */
    const word_numbers *n = minor == 13 ? &words_3_13 : &words_3_14;
    const uint32_t of[] = {n->current_frame, n->previous,     n->executable, n->instruction,
                           n->owner,         n->file,         n->function,   n->lines,
                           n->first_line,    n->instructions, n->type};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (table[of[i]] > 4096) return false;
    uint32_t header = (uint32_t)table[n->type] + 8; /* what every object begins with */
    *out = (layout){.frame_of_thread = (uint32_t)table[n->current_frame],
                    .previous = (uint32_t)table[n->previous],
                    .code = (uint32_t)table[n->executable],
                    .instruction = (uint32_t)table[n->instruction],
                    .owner = (uint32_t)table[n->owner],
                    .file = (uint32_t)table[n->file],
                    .function = (uint32_t)table[n->function],
                    .lines = (uint32_t)table[n->lines],
                    .first_line = (uint32_t)table[n->first_line],
                    .instructions = (uint32_t)table[n->instructions],
                    .type = (uint32_t)table[n->type],
                    .text_length = header,
                    .text_state = header + 16,
                    .ascii_size = header + 24,
                    .bytes_size = header,
                    .bytes_data = header + 16};
    return true;
}

void _dmi_python_find(void) {
    if (atomic_load_explicit(&thread_now, memory_order_acquire)) return;
    const uint64_t *runtime = _dmi_os_symbol("_PyRuntime");
    const uint32_t *version = _dmi_os_symbol("Py_Version"); /* since 3.11 */
    void *type = _dmi_os_symbol("PyCode_Type"), *eval = _dmi_os_symbol("_PyEval_EvalFrameDefault");
    void *now = _dmi_os_symbol("PyThreadState_GetUnchecked");
    if (!now) now = _dmi_os_symbol("_PyThreadState_UncheckedGet");
    if (!runtime || !version || !type || !now || sizeof(void *) != 8) return;
    uint32_t minor = *version >> 16 & 0xff;
    if (*version >> 24 != 3 || minor < 11) return;
    if (minor == 11) where = at_3_11;
    else if (minor == 12) where = at_3_12;
    else if (!from_table(runtime, &where)) return;
    code_type = (uintptr_t)type;
    eval_start = (uintptr_t)eval;
    eval_end = eval_start + _dmi_os_symbol_size(eval);
    void *(*function)(void);
    memcpy(&function, &now, sizeof function);
    atomic_store_explicit(&thread_now, function, memory_order_release);
}

bool _dmi_python_found(void) {
    return atomic_load_explicit(&thread_now, memory_order_relaxed) != NULL;
}

bool _dmi_python_evaluates(uint64_t address) { return address > eval_start && address <= eval_end; }

/* ---- frames -------------------------------------------------------------------------------------------- */

static inline uint64_t word(const void *object, uint32_t offset) {
    uint64_t value;
    memcpy(&value, (const char *)object + offset, sizeof value);
    return value;
}
static inline const void *pointer(const void *object, uint32_t offset) {
    return (const void *)(uintptr_t)(word(object, offset) & ~UINT64_C(7)); /* tags go */
}

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}

/* Addresses of dead code objects come back: the names' hashes, which the interpreter keeps, tell them apart. */
static uint64_t key_of(const void *code, uint32_t offset) {
    const void *file = pointer(code, where.file), *function = pointer(code, where.function);
    int32_t line;
    memcpy(&line, (const char *)code + where.first_line, sizeof line);
    uint64_t key = mix((uintptr_t)code, (uint64_t)(uint32_t)line << 32 | offset);
    key = mix(key, (uintptr_t)file);
    key = mix(key, (uintptr_t)function);
    if (file)
        key = mix(key, word(file, where.text_length) ^ word(file, where.text_length + 8) << 1);
    if (function)
        key = mix(key, word(function, where.text_length) ^ word(function, where.text_length + 8)
                                                               << 1);
    return key | DMI_FRAME_PYTHON;
}

/* Of frames without a place: they were run by the function that has that address on its stack. */
static void set_place(uintptr_t *place, size_t n, uintptr_t address) {
    while (n > 0 && place[n - 1] == 0) place[--n] = address;
}

size_t _dmi_python_frames(dmi_frame *out, uintptr_t *place, size_t most) {
    void *(*now)(void) = atomic_load_explicit(&thread_now, memory_order_acquire);
    const char *thread = now ? now() : NULL;
    size_t n = 0;
    if (!thread) return 0; /* it is not attached: its frames may be anybody's to change */
    const char *frame = pointer(thread, where.frame_of_thread), *cframe = NULL;
    if (where.by_cframe && frame) {
        cframe = frame;
        frame = pointer(frame, where.frame_of_cframe);
    }
    for (; frame && n < most; frame = pointer(frame, where.previous)) {
        unsigned owner = (unsigned char)frame[where.owner];
        if (owner >= LAST_OWNER) break;
        if (owner >=
            OWNER_NATIVE) { /* between Python and what called it: on the stack of what ran it */
            set_place(place, n, (uintptr_t)frame);
            continue;
        }
        bool is_entry = where.is_entry && frame[where.is_entry];
        const char *runs = where.is_entry ? cframe : NULL;
        if (is_entry && cframe) cframe = pointer(cframe, where.previous_cframe);
        const void *code = pointer(frame, where.code);
        uint64_t at = word(frame, where.instruction);
        if (!code || word(code, where.type) != code_type) continue;
        uint64_t start = (uintptr_t)code + where.instructions;
        uint32_t first = 0; /* the instruction that it begins with, once it is made */
        if (owner != OWNER_GENERATOR)
            memcpy(&first, (const char *)code + where.instructions - 16, 4);
        if (at + 2 < start || at < start + 2 * (uint64_t)first) continue; /* it has not begun */
        uint32_t offset = at < start ? 0 : (uint32_t)(at - start);
        out[n] = (dmi_frame){.key = key_of(code, offset), .code = code, .offset = offset};
        place[n++] = (uintptr_t)runs;
    }
    return n;
}

uint64_t _dmi_python_site(void) {
    void *(*now)(void) = atomic_load_explicit(&thread_now, memory_order_acquire);
    const char *thread = now ? now() : NULL;
    if (!thread) return 0;
    const char *frame = pointer(thread, where.frame_of_thread);
    if (where.by_cframe && frame) frame = pointer(frame, where.frame_of_cframe);
    uint64_t key = 0;
    for (int n = 0; frame && n < 2; frame = pointer(frame, where.previous)) {
        unsigned owner = (unsigned char)frame[where.owner];
        if (owner >= LAST_OWNER) break;
        if (owner >= OWNER_NATIVE) continue;
        key = mix(mix(key, word(frame, where.code)), word(frame, where.instruction));
        n++;
    }
    return key;
}

/* ---- what a code object says ------------------------------------------------------------------------- */

static uint32_t varint(const uint8_t **at, const uint8_t *end) {
    uint32_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 30; shift += 6) {
        uint8_t byte = *(*at)++;
        value |= (uint32_t)(byte & 63) << shift;
        if (!(byte & 64)) break;
    }
    return value;
}

static int32_t signed_varint(const uint8_t **at, const uint8_t *end) {
    uint32_t value = varint(at, end);
    return value & 1 ? -(int32_t)(value >> 1) : (int32_t)(value >> 1);
}

/* Entries of the line table: a byte with the bit 0x80, its kind and how many instructions it covers. */
static int32_t line_at(const void *code, uint32_t offset) {
    int32_t line;
    memcpy(&line, (const char *)code + where.first_line, sizeof line);
    const char *bytes = pointer(code, where.lines);
    if (!bytes) return line;
    const uint8_t *at = (const uint8_t *)bytes + where.bytes_data;
    const uint8_t *end = at + word(bytes, where.bytes_size);
    uint32_t covered = 0;
    while (at < end) {
        uint8_t first = *at++;
        unsigned kind = first >> 3 & 15;
        bool none = kind == 15;
        if (kind == 13 || kind == 14) line += signed_varint(&at, end);
        else if (kind >= 10 && kind <= 12) line += (int32_t)kind - 10;
        covered += ((first & 7u) + 1) * 2;
        if (offset < covered) return none ? 0 : line;
        while (at < end && !(*at & 0x80)) at++;
    }
    return line;
}

static size_t put_utf8(char *to, uint32_t c) {
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 63));
        to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | (c >> 18 & 7));
    to[1] = (char)(0x80 | (c >> 12 & 63));
    to[2] = (char)(0x80 | (c >> 6 & 63));
    to[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* A str's characters as UTF-8; of a long one the end. */
static size_t text_of(const void *text, char *to, size_t size) {
    if (!text) return 0;
    uint64_t length = word(text, where.text_length), used = 0;
    uint32_t state;
    memcpy(&state, (const char *)text + where.text_state, sizeof state);
    /* What interned is has two bits, a byte or two, by version and build; it is 3 at most. */
    if (!(state & 0x7c)) state >>= state & 0x700 ? 6 : 14;
    unsigned kind = state >> 2 & 7;
    bool compact = state >> 5 & 1, ascii = state >> 6 & 1;
    if (!compact || (kind != 1 && kind != 2 && kind != 4)) return 0;
    const char *data = (const char *)text + where.ascii_size + (ascii ? 0 : 16);
    uint64_t from = length > size / 4 ? length - size / 4 : 0;
    for (uint64_t i = from; i < length && used + 4 <= size; i++) {
        uint32_t c = 0;
        if (kind == 1) c = (uint8_t)data[i];
        else memcpy(&c, data + i * kind, kind);
        used += put_utf8(to + used, c);
    }
    return used;
}

bool _dmi_python_where(const dmi_frame *frame, dmi_python_where *out) {
    out->line = line_at(frame->code, frame->offset);
    out->file_length = text_of(pointer(frame->code, where.file), out->file, sizeof out->file);
    out->function_length =
        text_of(pointer(frame->code, where.function), out->function, sizeof out->function);
    return true;
}
