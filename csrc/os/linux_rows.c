/* linux_rows.c - objects by _dl_find_object, and the table of rows that were found. */
#define _GNU_SOURCE
#include "linux_rows.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>

#if defined(__x86_64__)
#define READS_ROWS true
#else
#define READS_ROWS false /* linux_cfi.c knows the registers of x86-64 */
#endif

#define HEADER_BYTES 4096u /* of an object, in which all its program headers lie */
#define IDS 64u

/* As the header of the loader has it, which may be older than the C library that is there. */
typedef struct place {
    uint64_t flags;
    void *start, *end;
    void *link_map;
    void *eh_frame_header;
    uint64_t reserved[7];
} place;
static int (*_Atomic find_object)(void *address, place *out);
static struct {
    uintptr_t base; /* where it begins */
    void *link_map;
} program; /* is never unloaded */
extern char __ehdr_start[]
    __attribute__((visibility("hidden"))); /* of this library, which is never unloaded either */

void _dmi_rows_begin(void) {
    if (!READS_ROWS || _dmi_rows_on()) return;
    int (*find)(void *, place *);
    void *symbol = dlsym(RTLD_DEFAULT, "_dl_find_object");
    memcpy(&find, &symbol, sizeof find);
    place own;
    if (!find) return;
    if (find((void *)getauxval(AT_PHDR), &own) == 0) {
        program.base = (uintptr_t)own.start;
        program.link_map = own.link_map;
    }
    atomic_store_explicit(&find_object, find, memory_order_release);
}

bool _dmi_rows_on(void) { return atomic_load_explicit(&find_object, memory_order_relaxed) != NULL; }

/* ---- objects ------------------------------------------------------------------------------------------- */

typedef struct headers {
    const ElfW(Phdr) * at;
    size_t count;
    uintptr_t bias;
} headers;

/* An object begins with its ELF header. */
static bool headers_of(uintptr_t start, headers *out) {
    const ElfW(Ehdr) *elf = (const ElfW(Ehdr) *)start;
    if (start % HEADER_BYTES || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0) return false;
    if (elf->e_phentsize != sizeof(ElfW(Phdr)) || elf->e_phoff % sizeof(void *)) return false;
    if (elf->e_phoff > HEADER_BYTES ||
        elf->e_phnum > (HEADER_BYTES - elf->e_phoff) / sizeof(ElfW(Phdr)))
        return false;
    out->at = (const ElfW(Phdr) *)(start + elf->e_phoff);
    out->count = elf->e_phnum;
    for (size_t i = 0; i < out->count; i++) {
        if (out->at[i].p_type != PT_LOAD) continue;
        out->bias = start - (out->at[i].p_vaddr & ~(ElfW(Addr))(HEADER_BYTES - 1));
        return true;
    }
    return false;
}

/* Where the object begins that was found. Where its segments do not lie close together, glibc tells of one segment: the
 * program's own beginning is known, and a library's is where its addresses count from. 0: not known. */
static uintptr_t base_of(const place *found) {
    uintptr_t counts_from = ((const struct link_map *)found->link_map)->l_addr;
    if (found->link_map == program.link_map) return program.base;
    if (counts_from == (uintptr_t)found->start) return counts_from;
    place first;
    int (*find)(void *, place *) = atomic_load_explicit(&find_object, memory_order_relaxed);
    if (find((void *)counts_from, &first) != 0 || first.link_map != found->link_map) return 0;
    return (uintptr_t)first.start;
}

static bool is_read_only(const ElfW(Phdr) * p) {
    return p->p_type == PT_LOAD && (p->p_flags & (PF_R | PF_W)) == PF_R;
}

/* What of the object may be read: its segments that are mapped from the file and not written to. */
static bool tables_of(const headers *h, uintptr_t base, uintptr_t header, dmi_cfi_object *out) {
    bool there = false;
    out->header = header;
    out->spans = 0;
    for (size_t i = 0; i < h->count; i++) {
        const ElfW(Phdr) *p = &h->at[i];
        uintptr_t from = h->bias + p->p_vaddr;
        if (p->p_type == PT_GNU_EH_FRAME) there = from == header;
        if (!is_read_only(p) || out->spans == DMI_CFI_SPANS) continue;
        if (from < base || p->p_filesz > UINTPTR_MAX - from) continue;
        out->span[out->spans].start = from;
        out->span[out->spans++].end = from + p->p_filesz;
    }
    return there;
}

/* ---- build IDs ------------------------------------------------------------------------------------------- */

#define NOTE_BYTES 16 /* sizes, type and name of the note, before the ID itself */

/* Where in the object's first page its build ID stands; 0: there is none. */
static size_t id_offset(const headers *h, uintptr_t start) {
    for (size_t i = 0; i < h->count; i++) {
        const ElfW(Phdr) *p = &h->at[i];
        uintptr_t at = h->bias + p->p_vaddr - start, end = at + p->p_filesz;
        if (p->p_type != PT_NOTE || p->p_align > 4 || at >= HEADER_BYTES || end < at ||
            end > HEADER_BYTES)
            continue;
        while (end - at >= NOTE_BYTES) {
            ElfW(Nhdr) note;
            memcpy(&note, (const void *)(start + at), sizeof note);
            uint64_t name = ((uint64_t)note.n_namesz + 3) & ~UINT64_C(3);
            uint64_t size = sizeof note + name + (((uint64_t)note.n_descsz + 3) & ~UINT64_C(3));
            if (size > end - at) break;
            if (note.n_type == NT_GNU_BUILD_ID && name == 4) return at + NOTE_BYTES;
            at += size;
        }
    }
    return 0;
}

/* A hash of the build ID that stands there, and of the object's place; 0: none stands there. */
static uint64_t tag_at(uintptr_t start, uintptr_t header, size_t offset) {
    uint64_t note[4];
    if (offset < NOTE_BYTES || offset > HEADER_BYTES - NOTE_BYTES) return 0;
    memcpy(note, (const void *)(start + offset - NOTE_BYTES), sizeof note);
    /* Sizes of name and ID, then the type and "GNU". */
    if ((uint32_t)note[0] != 4 || note[0] >> 32 < 16) return 0;
    if (note[1] != (UINT64_C(0x554e47) << 32 | NT_GNU_BUILD_ID)) return 0;
    uint64_t tag = _dmi_rows_mix(_dmi_rows_mix(start, header), note[2]);
    return _dmi_rows_mix(tag, note[3]) | 1;
}

/* What tells this object from any other that may come to lie at its place; 0: nothing does. Where the ID stood in an
 * object at that place is remembered: it is looked at there, so that a wrong memory does no harm. */
static uint64_t tag_of(uintptr_t start, uintptr_t header) {
    static _Atomic uint64_t ids[IDS]; /* a hash of the place in 48 bits, and the offset */
    headers h;
    if (start == program.base || start == (uintptr_t)__ehdr_start)
        return _dmi_rows_mix(start, header) | 1;
    uint64_t key = _dmi_rows_mix(start, header) & ~UINT64_C(0xffff);
    _Atomic uint64_t *entry = &ids[key >> 58];
    uint64_t known = atomic_load_explicit(entry, memory_order_relaxed);
    if ((known & ~UINT64_C(0xffff)) != key) {
        if (!headers_of(start, &h)) return 0;
        known = key | id_offset(&h, start);
        atomic_store_explicit(entry, known, memory_order_relaxed);
    }
    return tag_at(start, header, known & 0xffff);
}

/* The number of the object among those that were seen. */
static bool find_seen(dmi_rows_seen *seen, uintptr_t address) {
    for (size_t i = 0; i < seen->count; i++) {
        if (address - seen->object[i].start >= seen->object[i].size) continue;
        seen->last = i;
        return true;
    }
    place found;
    int (*find)(void *, place *) = atomic_load_explicit(&find_object, memory_order_acquire);
    if (find((void *)address, &found) != 0) return false;
    size_t i = seen->count < DMI_ROWS_OBJECTS ? seen->count++ : (seen->last + 1) % DMI_ROWS_OBJECTS;
    seen->last = i;
    seen->object[i].start = (uintptr_t)found.start;
    seen->object[i].size = (uintptr_t)found.end - (uintptr_t)found.start;
    seen->object[i].header = (uintptr_t)found.eh_frame_header;
    seen->object[i].base = found.eh_frame_header ? base_of(&found) : 0;
    seen->object[i].tag =
        seen->object[i].base ? tag_of(seen->object[i].base, seen->object[i].header) : 0;
    return true;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

dmi_row_entry _dmi_rows[DMI_ROWS];

static bool look_up(uintptr_t address, uint64_t tag, dmi_cfi_row *row) {
    const dmi_row_entry *at = _dmi_rows_entries(address);
    for (size_t i = 0; i < 2; i++) {
        uint64_t bits = atomic_load_explicit(&at[i].row, memory_order_relaxed);
        uint64_t check = atomic_load_explicit(&at[i].check, memory_order_relaxed);
        if (check != _dmi_rows_check(address, tag, bits)) continue;
        memcpy(row, &bits, sizeof *row);
        return true;
    }
    return false;
}

/* The newest row comes first, and what was there before it second. */
static void remember(uintptr_t address, uint64_t tag, dmi_cfi_row row) {
    uint64_t bits;
    memcpy(&bits, &row, sizeof bits);
    dmi_row_entry *at = _dmi_rows_entries(address);
    uint64_t old_row = atomic_load_explicit(&at[0].row, memory_order_relaxed);
    uint64_t old_check = atomic_load_explicit(&at[0].check, memory_order_relaxed);
    atomic_store_explicit(&at[1].row, old_row, memory_order_relaxed);
    atomic_store_explicit(&at[1].check, old_check, memory_order_relaxed);
    atomic_store_explicit(&at[0].row, bits, memory_order_relaxed);
    atomic_store_explicit(&at[0].check, _dmi_rows_check(address, tag, bits), memory_order_relaxed);
}

static dmi_cfi_row instead(dmi_cfi_found found) { return (dmi_cfi_row){.ra = (uint8_t)found}; }

dmi_cfi_row _dmi_rows_find_slow(dmi_rows_seen *seen, uintptr_t address) {
    dmi_cfi_row row;
    headers h;
    dmi_cfi_object tables;
    if (!find_seen(seen, address)) return instead(DMI_CFI_NO_ENTRY);
    uintptr_t base = seen->object[seen->last].base, header = seen->object[seen->last].header;
    uint64_t tag = seen->object[seen->last].tag;
    if (header == 0) return instead(DMI_CFI_NO_ENTRY);
    if (tag && look_up(address, tag, &row)) return row;
    if (!base || !headers_of(base, &h) || !tables_of(&h, base, header, &tables))
        return instead(DMI_CFI_UNKNOWN);
    dmi_cfi_found found = _dmi_cfi_find(&tables, address, &row);
    if (found != DMI_CFI_ROW) row = instead(found);
    if (tag) remember(address, tag, row);
    return row;
}
