/* shape.c - the structs of another build, by the table of fields that it carries. */
#include "shape.h"

#include "../heap/heap.h"

#include <string.h>

/* Members that had another name once. */
static const struct {
    const char *now, *once;
} renamed[] = {{"segment.deferred", "segment.held"}, {"run.taken", "run.taken_head"}};

/* Without these no heap can be read; any other member that is missing is taken for 0. */
static const char *const needed[] = {
    "heap.space",       "heap.policy",
    "heap.handle",      "heap.tail",
    "heap.next",        "heap.name",
    "space.segments",   "space.virtuals",
    "segment.space",    "segment.next",
    "segment.base",     "segment.size",
    "segment.pages",    "segment.reservation",
    "segment.reserved", "segment.committed",
    "segment.offered",  "segment.refused",
    "segment.runs",     "segment.runs_used",
    "run.head",         "run.used",
    "run.bias",         "run.block_size",
    "run.capacity",     "run.carved",
    "run.kind",         "run.flags",
    "run.first",        "run.pages",
    "run.parked",       "run.busy_bytes",
    "run.taken_count",  "run.segment",
    "run.remote",       "run.next",
};

static const dmi_layout_field *named(const dmi_layout_field *fields, size_t count,
                                     const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strncmp(fields[i].name, name, sizeof fields[i].name) == 0) return &fields[i];
    return NULL;
}

static const dmi_layout_field *theirs_of(const dmi_shape *shape, const char *name) {
    const dmi_layout_field *found = named(shape->fields, shape->count, name);
    for (size_t i = 0; !found && i < sizeof renamed / sizeof *renamed; i++)
        if (strcmp(renamed[i].now, name) == 0)
            found = named(shape->fields, shape->count, renamed[i].once);
    return found;
}

/* Whose member it is: the part before the dot. A space is part of a heap. */
static int struct_of(const char *name, bool *in_space) {
    *in_space = strncmp(name, "space.", 6) == 0;
    if (*in_space || strncmp(name, "heap.", 5) == 0) return DMI_SHAPE_HEAP;
    if (strncmp(name, "segment.", 8) == 0) return DMI_SHAPE_SEGMENT;
    return strncmp(name, "run.", 4) == 0 ? DMI_SHAPE_RUN : -1;
}

const char *_dmi_shape_learn(dmi_shape *shape) {
    static const char *const whole[] = {"dmi_heap", "dmi_segment", "dmi_run"};
    for (size_t i = 0; i < 3; i++) {
        const dmi_layout_field *field = named(shape->fields, shape->count, whole[i]);
        if (!field || field->size < 16 || field->size > DMI_SHAPE_LARGEST || field->size % 8)
            return whole[i];
        shape->size[i] = field->size;
    }
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!theirs_of(shape, needed[i])) return needed[i];
    shape->space = theirs_of(shape, "heap.space")->offset;
    shape->next = theirs_of(shape, "heap.next")->offset;
    uint32_t own_space = (uint32_t)offsetof(dmi_heap, space);
    for (size_t i = 0; i < dmi_layout_root.field_count; i++) {
        const dmi_layout_field *own = &dmi_layout_root.fields[i];
        const dmi_layout_field *field = theirs_of(shape, own->name);
        bool in_space;
        int what = struct_of(own->name, &in_space);
        if (!field || what < 0) continue;
        uint64_t from = field->offset + (uint64_t)(in_space ? shape->space : 0);
        if (field->size == 0 || from + field->size > shape->size[what]) return own->name;
        /* The space as a whole is filled by its members. */
        if (strcmp(own->name, "heap.space") == 0) continue;
        shape->moves[shape->move_count++] = (dmi_shape_move){
            (uint32_t)what, (uint32_t)from, own->offset + (in_space ? own_space : 0),
            field->size < own->size ? field->size : own->size};
    }
    shape->numbered = theirs_of(shape, "run.list") && theirs_of(shape, "run.list")->size == 2;
    shape->links = shape->version < 3 ? DMI_LINKS_PLAIN
                   : theirs_of(shape, "run.inverse") && theirs_of(shape, "run.origin")
                       ? DMI_LINKS_MARKED
                       : DMI_LINKS_PLACED;
    return NULL;
}

uint64_t _dmi_shape_word(const dmi_shape *shape, const char *name, const char *theirs) {
    const dmi_layout_field *field = theirs_of(shape, name);
    uint64_t word = 0;
    if (field) memcpy(&word, theirs + field->offset, field->size < 8 ? field->size : 8);
    return word;
}

void _dmi_shape_fill(const dmi_shape *shape, dmi_shape_of what, const char *theirs, void *ours) {
    static const size_t sizes[] = {sizeof(dmi_heap), sizeof(dmi_segment), sizeof(dmi_run)};
    memset(ours, 0, sizes[what]);
    for (size_t i = 0; i < shape->move_count; i++) {
        const dmi_shape_move *move = &shape->moves[i];
        if (move->what == what) memcpy((char *)ours + move->to, theirs + move->from, move->size);
    }
}
