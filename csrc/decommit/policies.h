/* policies.h - floor 4: the table of policies, one row each (policies.c).
 *
 * A row is all that a policy is: what it is called, which parameters it takes, whether it can act on this machine, how
 * long it waits between two passes, what a pass does, whether a block goes with the free that makes it free, and
 * why a page is still there. The engine finds free pages and gives them back, the heap floor takes the locks; neither
 * asks which policy it serves.
 *
 * The table is constant. What a policy remembers from pass to pass stands in the engine, which belongs to whoever runs
 * a pass: heap->pass is held.
 */
#ifndef DMI_POLICIES_H
#define DMI_POLICIES_H

#include "engine.h"

#include <dmi/stats.h>

/* Written by tools/generate.py. */
#define DMI_POLICIES (DMI_WHEN_PRESSURE + 1)

/* Why a byte is retained, in the order of the table; none: it is not. */
#define DMI_REASON_NUMBER(name, doc) DMI_REASON_##name,
typedef enum dmi_reason { DMI_REASON_none = 0, DMI_REASONS(DMI_REASON_NUMBER) } dmi_reason;

/* ---- parameters ----------------------------------------------------------------------------------- */

typedef enum dmi_key_form { DMI_KEY_NUMBER, DMI_KEY_BYTES, DMI_KEY_WORD } dmi_key_form;

/* A parameter: where its value lies in a dmi_policy, and which values are accepted. */
typedef struct dmi_policy_key {
    const char *name;
    size_t field; /* offset in dmi_policy: a double, a uint64_t or a uint32_t, as the form has it */
    dmi_key_form form;
    double least, most, usual; /* NUMBER, BYTES: range and default. WORD: the default's index */
    bool above;                /* NUMBER: least itself is refused */
    const char *const *words;  /* WORD: what each index is called; "" cannot be written */
    const char *accepted;      /* for error messages */
} dmi_policy_key;

/* 2^47: what a process can address. Exact as a double. */
#define DMI_KEY_BYTES_MOST 140737488355327.0

enum {
    DMI_KEY_DELAY,
    DMI_KEY_HALF_LIFE,
    DMI_KEY_BLOCK,
    DMI_KEY_TOTAL,
    DMI_KEY_COMBINE,
    DMI_KEY_RATIO,
    DMI_KEY_PSI,
    DMI_KEY_HEADROOM,
    DMI_KEY_HOW,
    DMI_KEYS
};
extern const dmi_policy_key _dmi_policy_keys[DMI_KEYS];

/* ---- what a policy can have done at a pass ---------------------------------------------------------- */

typedef struct dmi_outcome {
    uint64_t left; /* bytes of free pages that were left, though nothing but the policy kept them */
    bool waiting;  /* some run was not at rest: another pass will find more */
} dmi_outcome;

/* The heap floor's side of a pass: it visits the runs under the locks that they need. */
typedef struct dmi_passes dmi_passes;
struct dmi_passes {
    dmi_engine *engine;
    dmi_outcome (*sweep)(dmi_passes *self, dmi_pass_kind kind, uint64_t limit);
    uint64_t (*busy)(dmi_passes *self); /* busy bytes now */
    void (*units)(dmi_passes *self);    /* judge huge pages alone */
};

/* ---- rows ------------------------------------------------------------------------------------------ */

typedef struct dmi_policy_row {
    const char *name;
    const char *doc; /* when a free page goes, in one line */
    unsigned keys;   /* a bit for each parameter that it takes */
    bool
        counts; /* a page in a subsegment goes with the free of its last block: blocks are counted, and
                           every block goes through the shared cache */
    bool
        bounded; /* what is kept never makes a heap larger than it was within the last delay: level.h */
    bool
        promised; /* programs rely on it that nothing goes: that is broken only to serve a request */
    dmi_reason reason; /* why it keeps a free page */
    /* The same where it depends on the page: of a run of that kind and size. NULL: it does not. */
    dmi_reason (*reason_of)(const dmi_policy *policy, unsigned kind, uint64_t bytes);
    /* 0, or ENOTSUP: on this machine it could never act. NULL: it always can. */
    int (*probe)(void);
    /* Seconds between two passes; negative: it has none. NULL: none. */
    double (*interval)(const dmi_engine *engine);
    /* A pass. True: another one may find something though nothing happens to the heap. NULL: nothing. */
    bool (*pass)(dmi_passes *passes);
    /* Does a back-end block of that size go with the free that made it free? NULL: none does. */
    bool (*at_free)(const dmi_engine *engine, uint64_t bytes);
} dmi_policy_row;

extern const dmi_policy_row _dmi_policies[DMI_POLICIES];

static inline const dmi_policy_row *_dmi_policy_row(const dmi_policy *policy) {
    return &_dmi_policies[policy->when];
}

#endif
