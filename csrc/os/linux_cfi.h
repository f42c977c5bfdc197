/* linux_cfi.h - floor 1: how to step from a function to its caller, by the tables that compilers write for exceptions.
 *
 * An object's .eh_frame_hdr leads by binary search to the entry of a function, whose instructions say for each of its
 * addresses where the caller's registers are. Read here for x86-64: of all registers only the stack pointer, the frame
 * pointer and the return address. What is not understood is said to be so and never guessed.
 *
 * Pure: it reads the ranges that it is given and nothing else, whatever the tables claim. No memory, no lock.
 */
#ifndef DMI_LINUX_CFI_H
#define DMI_LINUX_CFI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DMI_CFI_SPANS 8

/* What of an object may be read, and where its .eh_frame_hdr begins. */
typedef struct dmi_cfi_object {
    uintptr_t header;
    size_t spans;
    struct {
        uintptr_t start, end;
    } span[DMI_CFI_SPANS];
} dmi_cfi_object;

/* The canonical frame address (CFA): what the stack pointer is once the function has returned. */
enum {
    DMI_CFA_SP = 1,    /* stack pointer + cfa_offset */
    DMI_CFA_FP = 2,    /* frame pointer + cfa_offset */
    DMI_CFA_AT_SP = 3, /* the word at stack pointer + cfa_offset */
    DMI_CFA_AT_FP = 4, /* the word at frame pointer + cfa_offset */
    DMI_CFA_PLT = 5,   /* an entry of 16 bytes that pushes a word at its byte cfa_offset */
};
/* The caller's frame pointer. */
enum {
    DMI_FP_SAME = 0,
    DMI_FP_UNKNOWN = 1,
    DMI_FP_AT_CFA = 2, /* at CFA + fp_offset */
    DMI_FP_AT_SP = 3,
    DMI_FP_AT_FP = 4,
};
#define DMI_RA_AT_CFA 0 /* the return address lies below the CFA */
#define DMI_RA_NONE 255 /* the outermost function: it has no caller */

/* One address's row of the table, in 8 bytes. */
typedef struct dmi_cfi_row {
    int32_t cfa_offset;
    int16_t fp_offset;
    uint8_t rules; /* DMI_CFA_* | DMI_FP_* << 3 | signal << 6 */
    uint8_t ra;    /* DMI_RA_AT_CFA, DMI_RA_NONE; n: at the stack pointer + 8 n */
} dmi_cfi_row;
static inline unsigned _dmi_cfi_cfa(dmi_cfi_row row) { return row.rules & 7u; }
static inline unsigned _dmi_cfi_fp(dmi_cfi_row row) { return row.rules >> 3 & 7u; }
/* The kernel called the caller away at that very address; it called nobody. */
static inline bool _dmi_cfi_signal(dmi_cfi_row row) { return row.rules >> 6 & 1u; }

typedef enum dmi_cfi_found {
    DMI_CFI_ROW = 0,
    DMI_CFI_NO_ENTRY = 1, /* the tables have no entry for that address */
    DMI_CFI_UNKNOWN = 2,  /* there is an entry that is not understood, or the tables are damaged */
} dmi_cfi_found;

/* The row of an address: of an instruction, which for a return address is the call before it. */
dmi_cfi_found _dmi_cfi_find(const dmi_cfi_object *object, uintptr_t address, dmi_cfi_row *row);

#endif
