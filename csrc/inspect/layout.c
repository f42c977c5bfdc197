/* layout.c - the description of this library's structs for readers from outside. */
#include "layout.h"

#include "../decommit/policies.h"
#include "../heap/registry.h"
#include "../os/own.h"

#include <string.h>

#define WHOLE(type)                                                                                \
    { #type, 0, sizeof(type) }
#define MEMBER(type, name, member)                                                                 \
    { name, offsetof(type, member), sizeof(((type *)0)->member) }

const dmi_layout dmi_layout_root = {
    .magic = DMI_LAYOUT_MAGIC,
    .size = sizeof(dmi_layout),
    .version = DMI_LAYOUT_VERSION,
    .address_bits = DMI_ADDRESS_BITS,
    .field_count = DMI_LAYOUT_FIELDS,
    .heaps = &_dmi_heaps,
    .page = &_dmi_page,
    .pagemap = &_dmi_pagemap,
    .key = &_dmi_secret.tag,
    .link = &_dmi_secret.link,
    .end = _dmi_end,
    .own = &_dmi_own,
    .fields =
        {WHOLE(dmi_heap),
         MEMBER(dmi_heap, "heap.space", space),
         MEMBER(dmi_heap, "heap.policy", engine.policy),
         MEMBER(dmi_heap, "heap.handle", handle),
         MEMBER(dmi_heap, "heap.tail", tail),
         MEMBER(dmi_heap, "heap.next", next),
         MEMBER(dmi_heap, "heap.name", name),
         MEMBER(dmi_space, "space.mode", mode),
         MEMBER(dmi_space, "space.segments", segments),
         MEMBER(dmi_space, "space.virtuals", virtuals),
         MEMBER(dmi_space, "space.kept", kept),
         WHOLE(dmi_segment),
         MEMBER(dmi_segment, "segment.space", space),
         MEMBER(dmi_segment, "segment.next", next),
         MEMBER(dmi_segment, "segment.base", base),
         MEMBER(dmi_segment, "segment.size", size),
         MEMBER(dmi_segment, "segment.pages", pages),
         MEMBER(dmi_segment, "segment.reservation", reservation),
         MEMBER(dmi_segment, "segment.reserved", reserved),
         MEMBER(dmi_segment, "segment.committed", committed),
         MEMBER(dmi_segment, "segment.offered", offered),
         MEMBER(dmi_segment, "segment.refused", refused),
         MEMBER(dmi_segment, "segment.deferred", deferred),
         MEMBER(dmi_segment, "segment.units", units),
         MEMBER(dmi_segment, "segment.given_at", has_given_at),
         MEMBER(dmi_segment, "segment.runs", runs),
         MEMBER(dmi_segment, "segment.runs_used", runs_used),
         WHOLE(dmi_run),
         MEMBER(dmi_run, "run.head", head),
         MEMBER(dmi_run, "run.used", used),
         MEMBER(dmi_run, "run.bias", bias),
         MEMBER(dmi_run, "run.block_size", block_size),
         MEMBER(dmi_run, "run.capacity", capacity),
         MEMBER(dmi_run, "run.carved", carved),
         MEMBER(dmi_run, "run.kind", kind),
         MEMBER(dmi_run, "run.flags", flags),
         MEMBER(dmi_run, "run.first", first),
         MEMBER(dmi_run, "run.pages", pages),
         MEMBER(dmi_run, "run.parked", parked),
         MEMBER(dmi_run, "run.busy_bytes", busy_bytes),
         MEMBER(dmi_run, "run.taken_count", taken_count),
         MEMBER(dmi_run, "run.segment", segment),
         MEMBER(dmi_run, "run.remote", remote),
         MEMBER(dmi_run, "run.next", next),
         MEMBER(dmi_run, "run.list", list),
         MEMBER(dmi_run, "run.taken", taken),
         MEMBER(dmi_run, "run.inverse", inverse),
         MEMBER(dmi_run, "run.origin", origin),
         MEMBER(dmi_run, "run.states", states),
         WHOLE(dmi_tag),
         MEMBER(dmi_tag, "tag.check", check),
         /* A range's reason depends on the policy, so the reader must know the same policies. */
         {"policies", 0, DMI_POLICIES - 1}},
};

const char *_dmi_layout_differs(const dmi_layout *found) {
    const dmi_layout *own = &dmi_layout_root;
    if (memcmp(found->magic, own->magic, sizeof own->magic) != 0) return "magic";
    if (found->version != own->version || found->size != own->size) return "version";
    if (found->address_bits != own->address_bits) return "address_bits";
    if (found->field_count != own->field_count) return "field_count";
    for (size_t i = 0; i < own->field_count; i++)
        if (memcmp(&found->fields[i], &own->fields[i], sizeof own->fields[i]) != 0)
            return own->fields[i].name;
    return NULL;
}
