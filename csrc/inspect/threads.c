/* threads.c - what the subsegments of a heap hold, for each thread.
 *
 * A subsegment belongs to the cache of one thread, and only that thread allocates from it. When the thread sleeps, its
 * free pages can be given back, except the page of the block at the head of each current list: an operation that was
 * interrupted may still touch that block. So each idle thread keeps a page for every size that it allocated last.
 */
#include "../heap/registry.h"
#include "../heap/visit.h"
#include "account.h"

#include <errno.h>
#include <string.h>

typedef struct threads_visitor {
    dmi_visitor visitor;
    dmi_thread_usage *rows;
    size_t capacity, count, last;
} threads_visitor;

/* The row of a thread; NULL when there is no room for one more. */
static dmi_thread_usage *row_of(threads_visitor *v, const dmi_thread *thread) {
    bool ended = !thread || thread->state == DMI_THREAD_ABANDONED;
    uint64_t id = ended ? 0 : thread->os_id;
    /* Runs of one thread often lie together: try the last row first. */
    if (v->last < v->count && v->last < v->capacity && v->rows[v->last].thread == id)
        return &v->rows[v->last];
    size_t known = v->count < v->capacity ? v->count : v->capacity;
    for (size_t i = 0; i < known; i++)
        if (v->rows[i].thread == id) {
            v->last = i;
            return &v->rows[i];
        }
    if (v->count++ >= v->capacity) return NULL;
    v->last = v->count - 1;
    memset(&v->rows[v->last], 0, sizeof v->rows[0]);
    v->rows[v->last].thread = id;
    return &v->rows[v->last];
}

static void visit(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    threads_visitor *v = (threads_visitor *)(void *)visitor;
    dmi_account account;
    if (!cache) return;
    dmi_thread_usage *row = row_of(v, cache->thread);
    if (!row) return;
    if (visitor->taken) {
        _dmi_account_run(heap, run, &account);
        row->in_flight += account.in_flight;
    } else {
        memset(&account, 0, sizeof account);
        _dmi_account_add(heap, run, &account);
        row->unknown += account.free_lfh;
    }
    row->committed += account.bytes - account.uncommitted;
    row->busy += account.busy;
    row->free += account.free_lfh;
}

size_t dmi_heap_threads(void *handle, dmi_thread_usage *out, size_t capacity) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return 0;
    threads_visitor v = {.visitor = {.run = visit, .lock = DMI_VISIT_TAKE},
                         .rows = out,
                         .capacity = out ? capacity : 0};
    _dmi_lock(&heap->pass);
    _dmi_heap_visit(heap, &v.visitor);
    _dmi_unlock(&heap->pass);
    return v.count;
}
