/* linux_cfi.c - rows of .eh_frame: binary search, then the entry's instructions.
 *
 * DWARF's chapter "Call Frame Information" says what the instructions mean, the Linux Standard Base how .eh_frame and
 * .eh_frame_hdr differ from it.
 */
#include "linux_cfi.h"

#include <string.h>

enum { REG_FP = 6, REG_SP = 7, REG_RA = 16 };
#define WORD ((int64_t)8)
#define STATES 8     /* that may be remembered at a time */
#define STEPS 100000 /* instructions of an entry */

/* ---- bytes that may be read ---------------------------------------------------------------------------- */

typedef struct reader {
    const uint8_t *at, *end;
    bool bad; /* it reached the end, or a format that is not known */
} reader;

static reader reader_at(const dmi_cfi_object *object, uintptr_t address) {
    for (size_t i = 0; i < object->spans; i++)
        if (address >= object->span[i].start && address < object->span[i].end)
            return (reader){(const uint8_t *)address, (const uint8_t *)object->span[i].end, false};
    return (reader){NULL, NULL, true};
}

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static void skip(reader *r, uint64_t n) {
    if (n > left(r)) {
        r->bad = true;
        r->at = r->end;
    } else {
        r->at += n;
    }
}

static uint64_t fixed(reader *r, size_t n) {
    uint64_t value = 0;
    if (n > left(r)) {
        r->bad = true;
        return 0;
    }
    memcpy(&value, r->at, n); /* little-endian, as x86-64 is */
    r->at += n;
    return value;
}

static uint64_t leb(reader *r, bool is_signed) {
    uint64_t value = 0;
    for (unsigned shift = 0; r->at < r->end && shift < 64; shift += 7) {
        uint8_t byte = *r->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80) continue;
        if (is_signed && byte & 0x40 && shift + 7 < 64) value |= ~UINT64_C(0) << (shift + 7);
        return value;
    }
    r->bad = true;
    return 0;
}
static uint64_t uleb(reader *r) { return leb(r, false); }
static int64_t sleb(reader *r) { return (int64_t)leb(r, true); }

/* An address as the exception tables write it: its format, and what it is relative to. */
enum { PE_OMIT = 0xff, PE_PCREL = 0x10, PE_DATAREL = 0x30 };

static uint64_t encoded(reader *r, uint8_t how, uintptr_t data) {
    uint64_t base = (uintptr_t)r->at, value = 0;
    switch (how & 0x70) {
    case 0: base = 0; break;
    case PE_PCREL: break;
    case PE_DATAREL: base = data; break;
    default: r->bad = true;
    }
    switch (how & 0x0f) {
    case 0x0:
    case 0x4:
    case 0xc: value = fixed(r, 8); break;
    case 0x1: value = uleb(r); break;
    case 0x2: value = fixed(r, 2); break;
    case 0x3: value = fixed(r, 4); break;
    case 0x9: value = (uint64_t)sleb(r); break;
    case 0xa: value = (uint64_t)(int16_t)fixed(r, 2); break;
    case 0xb: value = (uint64_t)(int32_t)fixed(r, 4); break;
    default: r->bad = true;
    }
    return base + value;
}

/* ---- the search ---------------------------------------------------------------------------------------- */

#define TABLE_ENTRY                                                                                \
    8 /* address of a function, address of its entry: 32 bits each, from the header on */

static int32_t half(const uint8_t *at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The entry of the last function that begins at the address or before it. */
static dmi_cfi_found search(const dmi_cfi_object *object, uintptr_t address, uintptr_t *entry) {
    reader r = reader_at(object, object->header);
    uint64_t version = fixed(&r, 1);
    uint8_t frames = (uint8_t)fixed(&r, 1), count = (uint8_t)fixed(&r, 1),
            table = (uint8_t)fixed(&r, 1);
    if (r.bad || version != 1) return DMI_CFI_UNKNOWN;
    if (count == PE_OMIT || table != (PE_DATAREL | 0xb)) return DMI_CFI_UNKNOWN; /* not sorted */
    if (frames != PE_OMIT) (void)encoded(&r, frames, object->header);
    uint64_t n = encoded(&r, count, object->header);
    if (r.bad || n > left(&r) / TABLE_ENTRY) return DMI_CFI_UNKNOWN;
    uint64_t low = 0, high = n;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        uintptr_t begin = object->header + (uintptr_t)(intptr_t)half(r.at + middle * TABLE_ENTRY);
        if (begin <= address) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return DMI_CFI_NO_ENTRY;
    *entry = object->header + (uintptr_t)(intptr_t)half(r.at + (low - 1) * TABLE_ENTRY + 4);
    return DMI_CFI_ROW;
}

/* ---- entries ------------------------------------------------------------------------------------------- */

typedef struct common {
    uint64_t code_step;
    int64_t data_step;
    uint8_t how; /* addresses are written */
    bool sized;  /* entries tell the size of what else they say */
    bool signal;
    reader instructions;
} common;

/* Read the length that an entry begins with, and let the reader end where the entry does. */
static bool open_entry(reader *r) {
    uint64_t length = fixed(r, 4);
    if (r->bad || length == 0 || length >= 0xfffffff0u || length > left(r)) return false;
    r->end = r->at + length;
    return true;
}

/* What entries have in common (CIE). */
static bool read_common(const dmi_cfi_object *object, uintptr_t address, common *out) {
    reader r = reader_at(object, address);
    if (r.bad || !open_entry(&r) || fixed(&r, 4) != 0) return false;
    uint64_t version = fixed(&r, 1);
    if (version != 1 && version != 3) return false;
    const uint8_t *letters = r.at, *zero = memchr(letters, 0, left(&r));
    if (!zero) return false;
    size_t n = (size_t)(zero - letters);
    r.at = zero + 1;
    *out = (common){.code_step = uleb(&r)};
    out->data_step = sleb(&r);
    if ((version == 1 ? fixed(&r, 1) : uleb(&r)) != REG_RA || r.bad) return false;
    if (n && letters[0] != 'z') return false;
    out->sized = n > 0;
    uint64_t size = out->sized ? uleb(&r) : 0;
    if (size > left(&r)) return false;
    const uint8_t *next = r.at + size;
    for (size_t i = 1; i < n; i++) {
        switch (letters[i]) {
        case 'R': out->how = (uint8_t)fixed(&r, 1); break;
        case 'L': skip(&r, 1); break;
        case 'P': {
            uint8_t how = (uint8_t)fixed(&r, 1);
            if (how == 0x50) return false; /* aligned */
            (void)encoded(&r, how & 0x0f, 0);
            break;
        }
        case 'S': out->signal = true; break;
        default: return false;
        }
    }
    if (r.bad || r.at > next) return false;
    r.at = next;
    out->instructions = r;
    return true;
}

/* ---- instructions -------------------------------------------------------------------------------------- */

enum rule_kind { UNSET = 0, SAME, UNDEFINED, AT_CFA, IS_CFA, AT_EXPRESSION, OTHER };
typedef struct rule {
    enum rule_kind kind;
    int64_t offset;
    reader expression;
} rule;
typedef struct state {
    uint64_t cfa_register;
    int64_t cfa_offset;
    bool by_expression;
    reader cfa_expression;
    rule fp, sp, ra;
} state;

static rule *rule_of(state *s, uint64_t number) {
    return number == REG_FP ? &s->fp : number == REG_SP ? &s->sp : number == REG_RA ? &s->ra : NULL;
}

static void set(state *s, uint64_t number, enum rule_kind kind, int64_t offset) {
    rule *r = rule_of(s, number);
    if (r) *r = (rule){.kind = kind, .offset = offset};
}

static reader expression(reader *r) {
    uint64_t size = uleb(r);
    reader e = *r;
    skip(r, size);
    if (!r->bad) e.end = r->at;
    return e;
}

static void set_expression(state *s, reader *r, uint64_t number, enum rule_kind kind) {
    reader e = expression(r);
    rule *to = rule_of(s, number);
    if (to) *to = (rule){.kind = kind, .expression = e};
}

static void set_cfa(state *s, uint64_t number, int64_t offset) {
    s->cfa_register = number;
    s->cfa_offset = offset;
    s->by_expression = false;
}

/* Offsets of tables that are damaged may be anything: they wrap and do not overflow. */
static int64_t times(uint64_t a, int64_t b) { return (int64_t)(a * (uint64_t)b); }

/* Run instructions until those of a later address. first: what "restore" goes back to; NULL in the common part. False:
 * not understood. */
static bool run(reader r, const common *c, uint64_t begin, uint64_t address, const state *first,
                state *s) {
    state kept[STATES];
    size_t n = 0;
    uint64_t here = begin, number;
    for (unsigned step = 0; r.at < r.end; step++) {
        if (r.bad || step == STEPS) return false;
        uint8_t byte = (uint8_t)fixed(&r, 1), low = byte & 0x3f;
        uint64_t forward = 0;
        switch (byte >> 6) {
        case 1: forward = low; break;
        case 2: set(s, low, AT_CFA, times(uleb(&r), c->data_step)); continue;
        case 3: number = low; goto restore;
        default: break;
        }
        if (byte >> 6 == 0) switch (byte) {
            case 0x00: continue; /* nop */
            case 0x01: {         /* set_loc */
                here = encoded(&r, c->how, 0);
                if (here > address) return !r.bad;
                continue;
            }
            case 0x02: forward = fixed(&r, 1); break;
            case 0x03: forward = fixed(&r, 2); break;
            case 0x04: forward = fixed(&r, 4); break;
            case 0x05: /* offset_extended */
                number = uleb(&r);
                set(s, number, AT_CFA, times(uleb(&r), c->data_step));
                continue;
            case 0x11: /* offset_extended_sf */
                number = uleb(&r);
                set(s, number, AT_CFA, times((uint64_t)sleb(&r), c->data_step));
                continue;
            case 0x06: number = uleb(&r); goto restore;
            case 0x07: set(s, uleb(&r), UNDEFINED, 0); continue;
            case 0x08: set(s, uleb(&r), SAME, 0); continue;
            case 0x09: /* in another register */
                set(s, uleb(&r), OTHER, 0);
                (void)uleb(&r);
                continue;
            case 0x0a: /* remember_state */
                if (n == STATES) return false;
                kept[n++] = *s;
                continue;
            case 0x0b: /* restore_state */
                if (n == 0) return false;
                *s = kept[--n];
                continue;
            case 0x0c: /* def_cfa */
                number = uleb(&r);
                set_cfa(s, number, (int64_t)uleb(&r));
                continue;
            case 0x12: /* def_cfa_sf */
                number = uleb(&r);
                set_cfa(s, number, times((uint64_t)sleb(&r), c->data_step));
                continue;
            case 0x0d: /* def_cfa_register */
                if (s->by_expression) return false;
                s->cfa_register = uleb(&r);
                continue;
            case 0x0e: /* def_cfa_offset */
            case 0x13: /* def_cfa_offset_sf */
                if (s->by_expression) return false;
                s->cfa_offset =
                    byte == 0x0e ? (int64_t)uleb(&r) : times((uint64_t)sleb(&r), c->data_step);
                continue;
            case 0x0f: /* def_cfa_expression */
                s->by_expression = true;
                s->cfa_expression = expression(&r);
                continue;
            case 0x10: /* expression */
                number = uleb(&r);
                set_expression(s, &r, number, AT_EXPRESSION);
                continue;
            case 0x16: /* val_expression */
                number = uleb(&r);
                set_expression(s, &r, number, OTHER);
                continue;
            case 0x14: /* val_offset */
                number = uleb(&r);
                set(s, number, IS_CFA, times(uleb(&r), c->data_step));
                continue;
            case 0x15: /* val_offset_sf */
                number = uleb(&r);
                set(s, number, IS_CFA, times((uint64_t)sleb(&r), c->data_step));
                continue;
            case 0x2e: (void)uleb(&r); continue; /* GNU_args_size: of no matter here */
            default: return false;
            }
        forward *= c->code_step;
        if (forward > address - here) return !r.bad;
        here += forward;
        continue;
    restore:
        if (!first) return false;
        if (number == REG_FP) s->fp = first->fp;
        if (number == REG_SP) s->sp = first->sp;
        if (number == REG_RA) s->ra = first->ra;
    }
    return !r.bad;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

enum { OP_DEREF = 0x06, OP_BREG_FP = 0x76, OP_BREG_SP = 0x77 };

/* "register + offset", and what is left of the expression; 0: something else. */
static unsigned based(reader *e, int64_t *offset) {
    uint64_t op = fixed(e, 1);
    *offset = sleb(e);
    return e->bad ? 0 : op == OP_BREG_SP ? REG_SP : op == OP_BREG_FP ? REG_FP : 0;
}

/* The linker's own entries: after a push in the middle of 16 bytes the stack pointer is one word lower.
 * sp + 8 + ((pc & 15) >= n) << 3 */
static bool is_plt(reader e, int32_t *push) {
    static const uint8_t front[] = {OP_BREG_SP, 8, 0x80, 0, 0x3f, 0x1a}, /* sp + 8, pc & 15 */
        back[] = {0x2a, 0x33, 0x24, 0x22};                               /* >=, 3, <<, + */
    if (left(&e) != sizeof front + 1 + sizeof back || memcmp(e.at, front, sizeof front) != 0 ||
        memcmp(e.at + sizeof front + 1, back, sizeof back) != 0)
        return false;
    uint8_t literal = e.at[sizeof front];
    if (literal < 0x30 || literal > 0x3f) return false;
    *push = literal - 0x30;
    return true;
}

static bool fits(int64_t offset, int64_t most) { return offset >= -most && offset <= most; }

static bool cfa_row(const state *s, unsigned *kind, int32_t *offset) {
    int64_t at = s->cfa_offset;
    if (!s->by_expression) {
        *kind = s->cfa_register == REG_SP ? DMI_CFA_SP : s->cfa_register == REG_FP ? DMI_CFA_FP : 0;
    } else if (is_plt(s->cfa_expression, offset)) {
        *kind = DMI_CFA_PLT;
        return true;
    } else {
        reader e = s->cfa_expression;
        unsigned base = based(&e, &at);
        if (!base || left(&e) != 1 || fixed(&e, 1) != OP_DEREF) return false;
        *kind = base == REG_SP ? DMI_CFA_AT_SP : DMI_CFA_AT_FP;
    }
    *offset = (int32_t)at;
    return *kind && fits(at, INT32_MAX);
}

static void fp_row(const rule *fp, unsigned *kind, int16_t *offset) {
    int64_t at = fp->offset;
    *kind = DMI_FP_UNKNOWN;
    switch (fp->kind) {
    case UNSET:
    case SAME: *kind = DMI_FP_SAME; return;
    case AT_CFA: *kind = DMI_FP_AT_CFA; break;
    case AT_EXPRESSION: {
        reader e = fp->expression;
        unsigned base = based(&e, &at);
        if (!base || left(&e)) return;
        *kind = base == REG_SP ? DMI_FP_AT_SP : DMI_FP_AT_FP;
        break;
    }
    default: return;
    }
    *offset = (int16_t)at;
    if (!fits(at, INT16_MAX)) *kind = DMI_FP_UNKNOWN;
}

static bool ra_row(const rule *ra, uint8_t *out) {
    int64_t at = 0;
    reader e = ra->expression;
    switch (ra->kind) {
    case UNDEFINED: *out = DMI_RA_NONE; return true;
    case AT_CFA: *out = DMI_RA_AT_CFA; return ra->offset == -WORD;
    case AT_EXPRESSION:
        if (based(&e, &at) != REG_SP || left(&e) || at % WORD || at < WORD ||
            at / WORD >= DMI_RA_NONE)
            return false;
        *out = (uint8_t)(at / WORD);
        return true;
    default: return false;
    }
}

/* The stack pointer of the caller is the CFA: said by nothing, or so, or as signal frames say it. */
static bool sp_is_cfa(const rule *sp, unsigned cfa, int32_t cfa_offset) {
    int64_t at = 0;
    reader e = sp->expression;
    if (sp->kind == UNSET) return true;
    if (sp->kind == IS_CFA) return sp->offset == 0;
    return sp->kind == AT_EXPRESSION && cfa == DMI_CFA_AT_SP && based(&e, &at) == REG_SP &&
           left(&e) == 0 && at == cfa_offset;
}

static bool to_row(const state *s, bool signal, dmi_cfi_row *row) {
    unsigned cfa = 0, fp = 0;
    *row = (dmi_cfi_row){0};
    if (!ra_row(&s->ra, &row->ra)) return false;
    if (row->ra == DMI_RA_NONE) {
        row->rules = DMI_CFA_SP | DMI_FP_UNKNOWN << 3;
        return true;
    }
    if (!cfa_row(s, &cfa, &row->cfa_offset) || !sp_is_cfa(&s->sp, cfa, row->cfa_offset))
        return false;
    fp_row(&s->fp, &fp, &row->fp_offset);
    row->rules = (uint8_t)(cfa | fp << 3 | (signal ? 64u : 0u));
    return true;
}

dmi_cfi_found _dmi_cfi_find(const dmi_cfi_object *object, uintptr_t address, dmi_cfi_row *row) {
    uintptr_t entry = 0;
    dmi_cfi_found found = search(object, address, &entry);
    if (found != DMI_CFI_ROW) return found;
    reader r = reader_at(object, entry);
    if (r.bad || !open_entry(&r)) return DMI_CFI_UNKNOWN;
    uintptr_t here = (uintptr_t)r.at;
    uint64_t back = fixed(&r, 4);
    common c;
    if (r.bad || back == 0 || !read_common(object, here - back, &c)) return DMI_CFI_UNKNOWN;
    uint64_t begin = encoded(&r, c.how, 0), size = encoded(&r, c.how & 0x0f, 0);
    if (c.sized) skip(&r, uleb(&r));
    if (r.bad) return DMI_CFI_UNKNOWN;
    if (address - begin >= size) return DMI_CFI_NO_ENTRY;
    state first = {0};
    if (!run(c.instructions, &c, begin, address, NULL, &first)) return DMI_CFI_UNKNOWN;
    state now = first;
    if (!run(r, &c, begin, address, &first, &now)) return DMI_CFI_UNKNOWN;
    return to_row(&now, c.signal, row) ? DMI_CFI_ROW : DMI_CFI_UNKNOWN;
}
