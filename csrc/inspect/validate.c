/* validate.c - checks every tag, list and count of a heap, and describes the first fault. */
#include "../heap/cache.h"
#include "../heap/canary.h"
#include "../heap/registry.h"
#include "../heap/take.h"
#include "account.h"

#include "../heap/hard.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Describe a fault. format takes address, a and b, or fewer of them. */
static bool report(dmi_fault *out, dmi_fault_kind kind, const void *address, const char *format,
                   const void *a, const void *b) {
    if (out) {
        out->kind = kind;
        out->address = (uintptr_t)address;
        (void)snprintf(out->message, sizeof out->message, format, address, a, b);
    }
    return false;
}

static bool sound_lfh(const dmi_heap *heap, const dmi_run *run, dmi_fault *out) {
    dmi_blockmap map;
    const void *bad = NULL;
    size_t pinned = SIZE_MAX, listed = 0;
    if (run->block_size == 0 || run->capacity == 0 || run->carved > run->capacity ||
        run->parked > run->carved || (size_t)run->capacity * run->block_size > _dmi_run_size(run))
        return report(
            out, DMI_FAULT_CORRUPT, run,
            "descriptor %p of the subsegment at %p is damaged (block size, capacity or carved)",
            _dmi_run_base(run), NULL);
    for (size_t i = 0; _dmi_run_is_hard(run) && i < run->carved; i++) {
        const char *block = _dmi_lfh_block(run, i);
        if (_dmi_hard_busy(run, i) && !_dmi_canary_sound(heap, block, run->block_size))
            return report(out, DMI_FAULT_OVERFLOW, block,
                          "the block at %p was written behind its end at %p; its subsegment begins "
                          "at %p",
                          block + run->block_size - heap->tail, _dmi_run_base(run));
    }
    /* Other threads may free into the run at any moment. Repeat until a look saw no change. */
    uint64_t remote = atomic_load_explicit(&run->remote, memory_order_acquire), then;
    for (int tries = 0;; tries++) {
        if (!_dmi_lfh_free_map(run, true, &map, &pinned, &bad))
            return report(out, DMI_FAULT_CORRUPT, bad,
                          "the link in free block %p of the subsegment at %p is damaged; its "
                          "descriptor is %p",
                          _dmi_run_base(run), run);
        then = remote;
        remote = atomic_load_explicit(&run->remote, memory_order_acquire);
        if (remote == then) break;
        if (tries == 100) return true;
    }
    for (size_t w = 0; w < _dmi_bits_words(run->carved); w++)
        listed += (size_t)__builtin_popcountll(map.word[w]);
    int64_t busy = (int64_t)_dmi_lfh_busy(run) - run->taken_count - DMI_REMOTE_COUNT(remote);
    int64_t missing = (int64_t)run->carved - (int64_t)listed - busy;
    /* In a taken run an operation of the owner may be in flight. Then the head block, and a block that the owner is
     * about to free, may be missing in both counts; a block that it has just listed may be in both. */
    bool taken = run->flags & DMI_RUN_TAKEN;
    if (missing < (taken ? -1 : 0) || missing > (taken ? 2 : 0))
        return report(out, DMI_FAULT_CORRUPT, run,
                      "descriptor %p of the subsegment at %p counts other busy blocks than its "
                      "lists leave",
                      _dmi_run_base(run), NULL);
    return true;
}

static bool sound_list(const dmi_heap *heap, const dmi_run *run, dmi_fault *out) {
    const dmi_tag *before = NULL;
    int64_t blocks = 0, busy = 0;
    uint64_t bytes = 0;
    const char *end = _dmi_run_base(run) + _dmi_run_size(run) - 8;
    for (dmi_tag *tag = _dmi_region_first(run); tag; tag = _dmi_region_next(run, tag)) {
        if (!_dmi_tag_sound(tag) || (const char *)tag + _dmi_tag_bytes(tag) > end ||
            (before ? tag->before != before->size : tag->before != 0))
            return report(
                out, DMI_FAULT_CORRUPT, tag,
                "the tag at %p is damaged; the block before it begins at %p, its region at %p",
                before ? (const char *)before + DMI_LIST_TAG : NULL, _dmi_run_base(run));
        if (tag->flags & DMI_TAG_BUSY) {
            const char *payload = (const char *)tag + DMI_LIST_TAG;
            if (!_dmi_canary_sound(heap, payload, _dmi_freelist_usable(payload)))
                return report(
                    out, DMI_FAULT_OVERFLOW, payload,
                    "the block at %p was written behind its end at %p; the next tag is at %p",
                    payload + _dmi_freelist_usable(payload) - heap->tail,
                    (const char *)tag + _dmi_tag_bytes(tag));
            busy++;
            bytes += _dmi_freelist_usable(payload);
        } else {
            const dmi_free_block *block = (const dmi_free_block *)(const void *)tag;
            if (!_dmi_free_listed(&heap->list, block))
                return report(out, DMI_FAULT_CORRUPT, tag,
                              "the links of the free block at %p are damaged; its region begins at "
                              "%p, its payload at %p",
                              _dmi_run_base(run), (const char *)tag + DMI_LIST_TAG);
        }
        blocks++;
        before = tag;
    }
    if (blocks != run->blocks || bytes != run->busy_bytes ||
        busy != atomic_load_explicit(&run->used, memory_order_relaxed))
        return report(
            out, DMI_FAULT_CORRUPT, run,
            "descriptor %p of the free-list region at %p counts other blocks than its tags",
            _dmi_run_base(run), NULL);
    return true;
}

static bool sound_run(const dmi_heap *heap, dmi_segment *segment, dmi_run *run, size_t page,
                      dmi_fault *out) {
    const char *at = segment->base + (page << _dmi_page_shift);
    if (run->kind == DMI_RUN_NONE || run->kind >= DMI_RUN_VIRTUAL || run->segment != segment ||
        run->first != page || run->pages == 0 || run->first + (size_t)run->pages > segment->pages)
        return report(out, DMI_FAULT_CORRUPT, run,
                      "descriptor %p of the run at %p is damaged; its segment begins at %p", at,
                      segment->base);
    switch (run->kind) {
    case DMI_RUN_LFH: _dmi_cache_take_run(run->cache, run); return sound_lfh(heap, run, out);
    case DMI_RUN_LIST: return sound_list(heap, run, out);
    case DMI_RUN_LARGE:
        if (_dmi_canary_sound(heap, at, _dmi_run_size(run))) return true;
        return report(out, DMI_FAULT_OVERFLOW, at,
                      "the block at %p was written behind its end at %p",
                      at + _dmi_run_size(run) - heap->tail, NULL);
    default: return true;
    }
}

int dmi_heap_validate(void *handle, dmi_fault *out) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (out && out->size < sizeof *out) {
        errno = EINVAL;
        return -1;
    }
    bool sound = true;
    _dmi_lock(&heap->pass);
    if (!_dmi_heap_freeze(heap)) {
        _dmi_unlock(&heap->pass);
        errno = ENOTSUP;
        return -1;
    }
    for (dmi_segment *s = heap->space.segments; s && sound; s = s->next)
        for (size_t page = 0; page < s->pages && sound;) {
            dmi_run *run = _dmi_segment_run(s, page);
            sound = sound_run(heap, s, run, page, out);
            page += run->pages;
        }
    for (dmi_run *run = heap->space.virtuals; run && sound; run = run->next) {
        const char *at = run->segment->base;
        sound = _dmi_canary_sound(heap, at, run->segment->size);
        if (!sound)
            (void)report(out, DMI_FAULT_OVERFLOW, at,
                         "the block at %p was written behind its end at %p",
                         at + run->segment->size - heap->tail, NULL);
    }
    _dmi_heap_thaw(heap);
    _dmi_unlock(&heap->pass);
    return sound ? 0 : 1;
}
