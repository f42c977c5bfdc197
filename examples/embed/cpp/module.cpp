// module.cpp - counts words in a std::pmr map, and keeps numbers in a vector with an allocator.
#define PY_SSIZE_T_CLEAN
#include <dmi/capi.h>
// After capi.h, so that its calls go through the imported table.
#include <dmi/dmi.hpp>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

struct state {
    dmi::heap heap{"embed_cpp"};
    dmi::heap_resource resource{heap};
    std::pmr::map<std::pmr::string, long> words{&resource};
    std::vector<double, dmi::allocator<double>> numbers{dmi::allocator<double>(heap)};
};
// Never destroyed: at exit other threads may still be inside.
state *all = nullptr;

PyObject *count(PyObject *, PyObject *argument) {
    const char *text = PyUnicode_AsUTF8(argument);
    if (text == nullptr) return nullptr;
    try {
        long &seen = all->words[std::pmr::string(text, &all->resource)];
        return PyLong_FromLong(++seen);
    } catch (const std::bad_alloc &) {
        return PyErr_NoMemory();
    }
}

PyObject *add(PyObject *, PyObject *argument) {
    double number = PyFloat_AsDouble(argument);
    if (number == -1.0 && PyErr_Occurred()) return nullptr;
    try {
        all->numbers.push_back(number);
    } catch (const std::bad_alloc &) {
        return PyErr_NoMemory();
    }
    double sum = 0;
    for (double each : all->numbers) sum += each;
    return PyFloat_FromDouble(sum);
}

PyObject *clear(PyObject *, PyObject *) {
    all->words.clear();
    all->numbers.clear();
    all->numbers.shrink_to_fit();
    Py_RETURN_NONE;
}

// Whoever else has blocks in this heap holds it, and is named.
PyObject *close(PyObject *self, PyObject *unused) {
    Py_XDECREF(clear(self, unused));
    try {
        all->heap.destroy();
    } catch (const std::system_error &error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyObject *handle(PyObject *, PyObject *) {
    return PyLong_FromVoidPtr(all->heap.handle());
}

PyMethodDef methods[] = {
    {"count", count, METH_O, "count(word) -> how often it was seen"},
    {"add", add, METH_O, "add(number) -> the sum of all"},
    {"clear", clear, METH_NOARGS, "clear(): forget all words and numbers"},
    {"close", close, METH_NOARGS, "close(): end the heap; RuntimeError while somebody holds it"},
    {"handle", handle, METH_NOARGS, "handle() -> the heap's handle"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "embed_cpp", "Standard containers on a dmi heap.", -1, methods,
    nullptr, nullptr, nullptr, nullptr,
};

} // namespace

PyMODINIT_FUNC PyInit_embed_cpp() {
    if (dmi_import() < 0) return nullptr;
    try {
        if (all == nullptr) all = new state;
    } catch (const std::exception &error) {
        PyErr_SetString(PyExc_OSError, error.what());
        return nullptr;
    }
    return PyModule_Create(&definition);
}
