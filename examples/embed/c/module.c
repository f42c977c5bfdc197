/* module.c - the Python side, and the one file that imports dmi. */
#define PY_SSIZE_T_CLEAN
#include <dmi/capi.h>
#include <errno.h>

#include "store.h"

static PyObject *put(PyObject *self, PyObject *argument) {
    (void)self;
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(argument, &bytes, &length) < 0) return NULL;
    long number = store_put(bytes, (size_t)length);
    return number < 0 ? PyErr_NoMemory() : PyLong_FromLong(number);
}

static PyObject *get(PyObject *self, PyObject *argument) {
    (void)self;
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred()) return NULL;
    size_t length;
    const char *bytes = store_get(number, &length);
    if (bytes == NULL) return PyErr_Format(PyExc_KeyError, "%ld", number);
    return PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length);
}

static PyObject *drop(PyObject *self, PyObject *argument) {
    (void)self;
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred()) return NULL;
    if (store_drop(number) < 0) return PyErr_Format(PyExc_KeyError, "%ld", number);
    Py_RETURN_NONE;
}

static PyObject *handle(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyLong_FromVoidPtr(store_heap());
}

/* A block on a heap that somebody else made. Whoever has blocks there holds it, so that its owner cannot
 * destroy it under them; the name is what the owner is told. */
static PyObject *borrow(PyObject *self, PyObject *argument) {
    (void)self;
    void *heap = PyLong_AsVoidPtr(argument);
    if (heap == NULL && PyErr_Occurred()) return NULL;
    if (dmi_heap_hold(heap, "embed_c") < 0) return PyErr_Format(PyExc_ValueError, "no such heap");
    void *block = dmi_heap_malloc(heap, 100);
    if (block == NULL) {
        dmi_heap_unhold(heap, "embed_c");
        return PyErr_NoMemory();
    }
    return PyLong_FromVoidPtr(block);
}

/* dmi_free serves blocks of every heap; dmi_find tells which heap it was. */
static PyObject *give_back(PyObject *self, PyObject *argument) {
    (void)self;
    void *block = PyLong_AsVoidPtr(argument);
    if (block == NULL && PyErr_Occurred()) return NULL;
    dmi_found found = {.size = sizeof found};
    if (dmi_find(block, &found) < 0) return PyErr_Format(PyExc_ValueError, "no such block");
    dmi_free(block);
    dmi_heap_unhold(found.heap, "embed_c");
    Py_RETURN_NONE;
}

/* Destroy a heap, or say who holds it. */
static PyObject *destroy(PyObject *self, PyObject *argument) {
    (void)self;
    void *heap = PyLong_AsVoidPtr(argument);
    if (heap == NULL && PyErr_Occurred()) return NULL;
    char who[48];
    if (dmi_heap_destroy(heap) == 0) Py_RETURN_NONE;
    if (errno == EBUSY && dmi_heap_holder(heap, 0, who, sizeof who, NULL) == 0)
        return PyErr_Format(PyExc_RuntimeError, "the heap is held by %s", who);
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyMethodDef methods[] = {
    {"put", put, METH_O, "put(bytes) -> number of the copy"},
    {"get", get, METH_O, "get(number) -> bytes"},
    {"drop", drop, METH_O, "drop(number): free the copy"},
    {"handle", handle, METH_NOARGS, "handle() -> the heap's handle, for dmi.Heap.from_handle"},
    {"borrow", borrow, METH_O, "borrow(heap handle) -> address of a block of 100 bytes there"},
    {"give_back", give_back, METH_O, "give_back(address): free what borrow() returned"},
    {"destroy", destroy, METH_O, "destroy(heap handle); RuntimeError while somebody holds it"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "embed_c", "Byte strings on a dmi heap.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_embed_c(void) {
    if (dmi_import() < 0) return NULL;
    if (store_open() < 0) return PyErr_NoMemory();
    return PyModule_Create(&definition);
}
