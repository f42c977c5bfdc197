/* linux_frames.c - stacks: by tables where code has them, by frame pointers where they prove right. */
#define _GNU_SOURCE
#include "frames.h"

#include "linux_code.h"
#include "linux_linked.h"
#include "linux_rows.h"
#include "os.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((uintptr_t)4096)
#define WORD sizeof(uintptr_t)
#define GROW_PAGES 64    /* of a known stack, looked at in one go */
#define FIRST_PAGES 2048 /* of a stack that is seen for the first time */
#define OTHER_PAGES 64   /* of any other stack: looked at anew each time */
#define OWN_FRAMES 6     /* of our library, at most */
#define SWITCHES 4       /* from one stack to another, by signals */

/* ---- the stack ----------------------------------------------------------------------------------------- */

extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char __etext[] __attribute__((visibility("hidden")));
extern void *__libc_stack_end;

/* Of this thread's own stack, the pages that were seen readable: [low, high). They stay so while it lives. */
static DMI_TLS uintptr_t known_low, known_high;

/* The kernel copies the set before it refuses the operation (-1), so nothing is changed by the question. */
static bool readable(uintptr_t page) {
    return syscall(SYS_rt_sigprocmask, -1, page, NULL, 8) == 0 || errno == EINVAL;
}

static bool all_readable(uintptr_t from, uintptr_t to, size_t most) {
    if ((to - from) / PAGE > most) return false;
    for (uintptr_t page = from; page < to; page += PAGE)
        if (!readable(page)) return false;
    return true;
}

/* Where the stack that sp lies on ends: the thread's own, if it is that. */
static uintptr_t end_of(uintptr_t sp) {
    uintptr_t thread = (uintptr_t)__builtin_thread_pointer();
    uintptr_t first = (uintptr_t)__libc_stack_end + 2 * sizeof(void *);
    uintptr_t end = UINTPTR_MAX;
    if (thread > sp) end = thread;
    if (first > sp && first < end) end = first;
    return end;
}

/* How far up from sp frames may be read. Where other stacks (of coroutines, of signals) end is not known: their
 * pages are looked at one by one. */
static uintptr_t limit_of(uintptr_t sp) {
    uintptr_t page = sp & ~(PAGE - 1);
    if (sp >= known_low && sp < known_high) return known_high;
    uintptr_t end = end_of(sp);
    if (known_high && sp < known_low && end >= known_high && end - known_high < PAGE &&
        all_readable(page, known_low, GROW_PAGES)) {
        known_low = page;
        return known_high;
    }
    if (!known_high && end != UINTPTR_MAX) {
        uintptr_t top = end & ~(PAGE - 1);
        if (top <= page) return end;
        if (all_readable(page, top, FIRST_PAGES)) {
            known_low = page;
            known_high = top + (readable(top) ? end - top : 0);
            return known_high;
        }
    }
    uintptr_t to = page + PAGE;
    for (size_t n = 0; n < OTHER_PAGES && readable(to); n++) to += PAGE;
    return to;
}

/* ---- steps --------------------------------------------------------------------------------------------- */

typedef struct walk {
    uintptr_t pc, sp, fp;
    bool fp_known; /* the frame pointer is the one that the function at pc has */
    bool exact; /* pc was interrupted; else it is a return address, and the call lies before it */
    uintptr_t limit;
    unsigned switches;
} walk;
typedef enum step_end { GOES_ON, ENDS, IS_CUT } step_end;

/* A word of the stack, no deeper than the stack pointer. */
static bool word_at(const walk *w, uintptr_t address, uintptr_t *value) {
    if (address % WORD || address < w->sp || address >= w->limit || w->limit - address < WORD)
        return false;
    *value = *(const uintptr_t *)address;
    return true;
}

static bool cfa_of(const walk *w, dmi_cfi_row row, uintptr_t *cfa) {
    uintptr_t offset = (uintptr_t)(intptr_t)row.cfa_offset;
    switch (_dmi_cfi_cfa(row)) {
    case DMI_CFA_SP: *cfa = w->sp + offset; return true;
    case DMI_CFA_FP: *cfa = w->fp + offset; return w->fp_known;
    case DMI_CFA_AT_SP: return word_at(w, w->sp + offset, cfa);
    case DMI_CFA_AT_FP: return w->fp_known && word_at(w, w->fp + offset, cfa);
    case DMI_CFA_PLT: *cfa = w->sp + WORD + (w->pc % 16 >= offset ? WORD : 0); return true;
    default: return false;
    }
}

static bool caller_fp(const walk *w, dmi_cfi_row row, uintptr_t cfa, uintptr_t *fp) {
    uintptr_t offset = (uintptr_t)(intptr_t)row.fp_offset;
    switch (_dmi_cfi_fp(row)) {
    case DMI_FP_SAME: *fp = w->fp; return w->fp_known;
    case DMI_FP_AT_CFA: return word_at(w, cfa + offset, fp);
    case DMI_FP_AT_SP: return word_at(w, w->sp + offset, fp);
    case DMI_FP_AT_FP: return w->fp_known && word_at(w, w->fp + offset, fp);
    default: return false;
    }
}

/* The common kinds of rows: the CFA by a register, the return address below it. False: another kind, or none. */
static inline bool step_plain(walk *w, dmi_cfi_row row) {
    unsigned cfa_rule = _dmi_cfi_cfa(row), fp_rule = row.rules >> 3;
    if (row.ra != DMI_RA_AT_CFA || cfa_rule - 1 > 1 || !w->fp_known) return false;
    uintptr_t cfa = (cfa_rule == DMI_CFA_SP ? w->sp : w->fp) + (uintptr_t)(intptr_t)row.cfa_offset;
    if (cfa % WORD || cfa <= w->sp || cfa > w->limit) return false;
    uintptr_t pc = *(const uintptr_t *)(cfa - WORD);
    if (fp_rule == DMI_FP_AT_CFA) {
        uintptr_t at = cfa + (uintptr_t)(intptr_t)row.fp_offset;
        if (at % WORD || at < w->sp || at >= cfa) return false;
        w->fp = *(const uintptr_t *)at;
    } else if (fp_rule != DMI_FP_SAME) {
        return false;
    }
    w->pc = pc;
    w->sp = cfa;
    w->exact = false;
    return pc != 0;
}

static step_end step(walk *w, dmi_cfi_row row) {
    uintptr_t cfa, pc, fp = 0;
    if (row.ra == DMI_RA_NONE) return ENDS;
    if (!cfa_of(w, row, &cfa) || cfa % WORD) return IS_CUT;
    bool signal = _dmi_cfi_signal(row), here = cfa > w->sp && cfa <= w->limit;
    if (!here && !signal) return IS_CUT;
    if (!word_at(w, row.ra == DMI_RA_AT_CFA ? cfa - WORD : w->sp + row.ra * WORD, &pc))
        return IS_CUT;
    w->fp_known = caller_fp(w, row, cfa, &fp);
    w->fp = fp;
    w->pc = pc;
    w->sp = cfa;
    w->exact = signal;
    if (!here) { /* the signal was handled on a stack of its own */
        if (w->switches++ == SWITCHES || cfa == 0) return IS_CUT;
        w->limit = limit_of(cfa);
    }
    return pc ? GOES_ON : ENDS;
}

/* A frame that its function links: the caller's frame pointer, and above it the return address. */
static step_end step_linked(walk *w) {
    uintptr_t pc, fp;
    if (w->exact || !w->fp_known || !word_at(w, w->fp, &fp) || !word_at(w, w->fp + WORD, &pc))
        return IS_CUT;
    if (!_dmi_code_links(w->pc, pc)) return IS_CUT;
    w->sp = w->fp + 2 * WORD;
    w->fp = fp;
    w->pc = pc;
    return pc ? GOES_ON : ENDS;
}

/* By the row of each address, from a frame that is linked for sure. */
static size_t by_rows(walk w, bool skip_own, dmi_native *out, size_t most, bool *cut) {
    dmi_rows_seen seen = {.count = 0};
    size_t n = 0, own = 0;
    step_end going = GOES_ON;
    while (going == GOES_ON && n < most) {
        uintptr_t pc = w.pc, exact = w.exact;
        dmi_cfi_row row = _dmi_rows_find(&seen, pc - !exact);
        if (!step_plain(&w, row)) {
            if (!row.rules && !_dmi_code_holds(pc)) break;
            going = row.rules                    ? step(&w, row)
                    : row.ra == DMI_CFI_NO_ENTRY ? step_linked(&w)
                                                 : IS_CUT;
        }
        bool ours = pc >= (uintptr_t)__ehdr_start && pc < (uintptr_t)__etext;
        if (skip_own && ours && n == 0 && own++ < OWN_FRAMES) continue;
        out[n++] =
            (dmi_native){.address = pc + exact, .end = going == GOES_ON ? w.sp : UINTPTR_MAX};
    }
    *cut = going != ENDS;
    return n;
}

/* By frame pointers alone, where no rows can be found. */
static size_t by_links(walk w, bool skip_own, dmi_native *out, size_t most) {
    size_t n = 0, own = 0;
    while (n < most) {
        uintptr_t pc = w.pc, fp = w.fp;
        bool ours = pc >= (uintptr_t)__ehdr_start && pc < (uintptr_t)__etext;
        if (skip_own && ours && n == 0 && own < OWN_FRAMES) own++;
        else if (_dmi_code_holds(pc)) out[n++] = (dmi_native){.address = pc, .end = UINTPTR_MAX};
        else break;
        if (!word_at(&w, fp, &w.fp) || !word_at(&w, fp + WORD, &w.pc)) break;
        w.sp = fp + 2 * WORD;
        if (n) out[n - 1].end = w.sp;
    }
    return n;
}

static size_t frames_of(const void *frame, bool skip_own, dmi_native *out, size_t most, bool *cut) {
    uintptr_t at = (uintptr_t)frame;
    walk w = {.sp = at, .limit = limit_of(at), .fp_known = true};
    *cut = false;
    if (!word_at(&w, at, &w.fp) || !word_at(&w, at + WORD, &w.pc)) return 0;
    w.sp = at + 2 * WORD;
    return _dmi_rows_on() ? by_rows(w, skip_own, out, most, cut) : by_links(w, skip_own, out, most);
}

size_t _dmi_os_frames(const void *frame, dmi_native *out, size_t most, bool *cut) {
    return frames_of(frame, true, out, most, cut);
}
size_t _dmi_os_all_frames(const void *frame, dmi_native *out, size_t most, bool *cut) {
    return frames_of(frame, false, out, most, cut);
}

void _dmi_os_frames_begin(void) {
    _dmi_rows_begin();
    _dmi_code_refresh();
}

bool _dmi_os_frames_cross_signals(void) { return _dmi_rows_on(); }

/* ---- the rest ------------------------------------------------------------------------------------------ */

void *_dmi_os_symbol(const char *name) { return dlsym(RTLD_DEFAULT, name); }

size_t _dmi_os_symbol_size(const void *address) {
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    if (!address || !dladdr1(address, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol) return 0;
    return symbol->st_size;
}

size_t _dmi_os_program(char *path, size_t size) {
    ssize_t n = readlink("/proc/self/exe", path, size);
    return n > 0 ? (size_t)n : 0;
}

uint64_t _dmi_os_process_id(void) { return (uint64_t)getpid(); }

uint64_t _dmi_os_calendar(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
