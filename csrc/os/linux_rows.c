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
#define READS_ROWS false /* cfi.c knows the registers of x86-64 */
#endif

#define HEADER_BYTES 4096u /* of an object, in which all its program headers lie */
#define ROWS 4096u         /* 64 KiB, touched as they fill */

/* As <dlfcn.h> has it, which may be older than the C library that is there. */
typedef struct place {
    uint64_t flags;
    void *start, *end;
    void *link_map;
    void *eh_frame_header;
    uint64_t reserved[7];
} place;
static int (*_Atomic find_object)(void *address, place *out);
static uintptr_t program_start; /* where the program itself begins, which is never unloaded */
extern char __ehdr_start[] __attribute__((visibility("hidden"))); /* nor is this library */

void _dmi_rows_begin(void) {
    if (!READS_ROWS || _dmi_rows_on()) return;
    int (*find)(void *, place *);
    void *symbol = dlsym(RTLD_DEFAULT, "_dl_find_object");
    memcpy(&find, &symbol, sizeof find);
    place own;
    if (!find) return;
    if (find((void *)getauxval(AT_ENTRY), &own) == 0) program_start = (uintptr_t)own.start;
    atomic_store_explicit(&find_object, find, memory_order_release);
}

bool _dmi_rows_on(void) { return atomic_load_explicit(&find_object, memory_order_relaxed) != NULL; }

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}

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

static bool is_read_only(const ElfW(Phdr) * p) {
    return p->p_type == PT_LOAD && (p->p_flags & (PF_R | PF_W)) == PF_R;
}

/* The part of the object's tables that may be read: its segments that are mapped from the file and not written to. */
static bool tables_of(const headers *h, uintptr_t start, uintptr_t end, uintptr_t header,
                      dmi_cfi_object *out) {
    bool there = false;
    out->header = header;
    out->spans = 0;
    for (size_t i = 0; i < h->count; i++) {
        const ElfW(Phdr) *p = &h->at[i];
        uintptr_t from = h->bias + p->p_vaddr;
        if (p->p_type == PT_GNU_EH_FRAME) there = from == header;
        if (!is_read_only(p) || out->spans == DMI_CFI_SPANS) continue;
        if (from < start || from > end || p->p_filesz > end - from) continue;
        out->span[out->spans].start = from;
        out->span[out->spans++].end = from + p->p_filesz;
    }
    return there;
}

/* A hash of the build ID in one segment of notes; 0: none. */
static uint64_t id_in(const uint8_t *at, size_t left) {
    while (left >= sizeof(ElfW(Nhdr)) + 4) {
        ElfW(Nhdr) note;
        memcpy(&note, at, sizeof note);
        size_t name = ((size_t)note.n_namesz + 3) & ~(size_t)3;
        size_t text = ((size_t)note.n_descsz + 3) & ~(size_t)3;
        if (name > left - sizeof note || text > left - sizeof note - name) return 0;
        const uint8_t *id = at + sizeof note + name;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && note.n_descsz >= 16 &&
            memcmp(at + sizeof note, "GNU", 4) == 0) {
            uint64_t words[2];
            memcpy(words, id, sizeof words);
            return mix(mix(1, words[0]), words[1]) | 1;
        }
        at = id + text;
        left -= sizeof note + name + text;
    }
    return 0;
}

/* What tells this object from any other that may come to lie at its place; 0: nothing does. */
static uint64_t tag_of(const headers *h, uintptr_t start, uintptr_t header) {
    uint64_t id = start == program_start || start == (uintptr_t)__ehdr_start;
    for (size_t i = 0; i < h->count && !id; i++) {
        const ElfW(Phdr) *note = &h->at[i];
        if (note->p_type != PT_NOTE || note->p_align > 4) continue;
        for (size_t k = 0; k < h->count; k++)
            if (is_read_only(&h->at[k]) && note->p_vaddr >= h->at[k].p_vaddr &&
                note->p_vaddr - h->at[k].p_vaddr <= h->at[k].p_filesz &&
                note->p_filesz <= h->at[k].p_filesz - (note->p_vaddr - h->at[k].p_vaddr))
                id = id_in((const uint8_t *)(h->bias + note->p_vaddr), note->p_filesz);
    }
    return id ? mix(mix(id, start), header) | 1 : 0;
}

/* The number of the object among those that were seen. It has tables, or header is 0. */
static bool find_seen(dmi_rows_seen *seen, uintptr_t address, size_t *number) {
    for (size_t i = 0; i < seen->count; i++) {
        if (address < seen->object[i].start || address >= seen->object[i].end) continue;
        *number = i;
        return true;
    }
    place found;
    headers h;
    int (*find)(void *, place *) = atomic_load_explicit(&find_object, memory_order_acquire);
    if (find((void *)address, &found) != 0) return false;
    size_t i = seen->next++ % DMI_ROWS_OBJECTS;
    if (seen->count < DMI_ROWS_OBJECTS) seen->count++;
    uintptr_t start = (uintptr_t)found.start, header = (uintptr_t)found.eh_frame_header;
    seen->object[i].start = start;
    seen->object[i].end = (uintptr_t)found.end;
    seen->object[i].header = header;
    seen->object[i].tag = 0;
    if (header && headers_of(start, &h)) seen->object[i].tag = tag_of(&h, start, header);
    *number = i;
    return true;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

/* Two words that are written one after the other: the first is a hash of the second, too, so that halves of two entries
 * are no entry. */
static struct entry { _Atomic uint64_t check, row; } table[ROWS];

static inline struct entry *entries(uintptr_t address) {
    return &table[(size_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (ROWS - 2)];
}
static inline uint64_t check_of(uintptr_t address, uint64_t tag, uint64_t row) {
    return mix(tag ^ address, row);
}

/* A row without rules stands for what was found instead. */
static dmi_cfi_found unpack(uint64_t bits, dmi_cfi_row *row) {
    memcpy(row, &bits, sizeof *row);
    return row->rules ? DMI_CFI_ROW : (dmi_cfi_found)row->ra;
}

static bool look_up(uintptr_t address, uint64_t tag, uint64_t *row) {
    const struct entry *at = entries(address);
    for (size_t i = 0; i < 2; i++) {
        *row = atomic_load_explicit(&at[i].row, memory_order_relaxed);
        uint64_t check = atomic_load_explicit(&at[i].check, memory_order_relaxed);
        if (check == check_of(address, tag, *row)) return true;
    }
    return false;
}

static void remember(uintptr_t address, uint64_t tag, dmi_cfi_found found, dmi_cfi_row row) {
    if (found != DMI_CFI_ROW) row = (dmi_cfi_row){.ra = (uint8_t)found};
    uint64_t bits;
    memcpy(&bits, &row, sizeof bits);
    struct entry *at = entries(address);
    /* The newest row comes first, and what was there before it second. */
    uint64_t old_row = atomic_load_explicit(&at[0].row, memory_order_relaxed);
    uint64_t old_check = atomic_load_explicit(&at[0].check, memory_order_relaxed);
    atomic_store_explicit(&at[1].row, old_row, memory_order_relaxed);
    atomic_store_explicit(&at[1].check, old_check, memory_order_relaxed);
    atomic_store_explicit(&at[0].row, bits, memory_order_relaxed);
    atomic_store_explicit(&at[0].check, check_of(address, tag, bits), memory_order_relaxed);
}

dmi_cfi_found _dmi_rows_find(dmi_rows_seen *seen, uintptr_t address, dmi_cfi_row *row) {
    size_t i = 0;
    uint64_t bits;
    if (!find_seen(seen, address, &i)) return DMI_CFI_NO_ENTRY;
    uintptr_t start = seen->object[i].start, header = seen->object[i].header;
    if (header == 0) return DMI_CFI_NO_ENTRY;
    uint64_t tag = seen->object[i].tag;
    if (tag && look_up(address, tag, &bits)) return unpack(bits, row);
    headers h;
    dmi_cfi_object tables;
    if (!headers_of(start, &h) || !tables_of(&h, start, seen->object[i].end, header, &tables))
        return DMI_CFI_UNKNOWN;
    dmi_cfi_found found = _dmi_cfi_find(&tables, address, row);
    if (tag) remember(address, tag, found, *row);
    return found;
}
