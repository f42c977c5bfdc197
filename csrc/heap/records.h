/* records.h - the records of threads.
 *
 * The address of a record is the token that its thread's runs carry as their owner. So a record is never freed
 * and never moves: one whose thread ended waits for the next new thread, with the runs it still has. The list
 * of all records only grows, at its front.
 *
 * The records have a lock of their own, for who has no thread; it is taken after the registry of heaps and
 * before the lock of any record. The list itself is read without it.
 */
#ifndef DMI_RECORDS_H
#define DMI_RECORDS_H

#include "heap.h"

/* What fast paths find: this thread's record, or &_dmi_no_thread, which has nothing to hand out and owns nothing. */
extern DMI_TLS dmi_thread *_dmi_self;
extern dmi_thread _dmi_no_thread;
/* A memo of no heap. An address of our own: NULL and -1 are what careless callers pass. */
#define DMI_NO_HANDLE ((void *)&_dmi_no_thread)
/* This thread's record whatever _dmi_self says; NULL before its first slow path; &_dmi_no_thread when there is
 * none to have. */
extern DMI_TLS dmi_thread *_dmi_record;
/* Can other threads be made to pass a memory barrier? Set before the first heap. */
extern bool _dmi_have_barrier;
/* All records, newest first. */
dmi_thread *_dmi_threads(void);
/* A record without a thread: *adopted tells whether one left it behind, or it is new. NULL: no memory. */
dmi_thread *_dmi_record_get(bool *adopted);
/* It has no thread any more; and the same where the records are locked. */
void _dmi_record_put(dmi_thread *record);
void _dmi_record_put_locked(dmi_thread *record);
/* No record is handed out or made meanwhile. */
void _dmi_records_lock(void);
void _dmi_records_unlock(void);
/* Fork child: which records have no thread is told afresh. The records are locked. */
void _dmi_records_forget_abandoned(void);
/* Committed bytes of the records. */
size_t _dmi_threads_metadata(void);

#endif
