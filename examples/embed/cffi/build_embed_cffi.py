"""What cffi compiles: C that is written for libdmi, as a program outside Python would be."""

import cffi

import dmi

ffi = cffi.FFI()
ffi.cdef("""
    void *open_heap(void);
    char *reversed(void *heap, const char *text);
    void dmi_heap_free(void *heap, void *block);
""")
ffi.set_source(
    "_embed_cffi",
    """
    #include <dmi/dmi.h>
    #include <string.h>

    static void *open_heap(void) {
        dmi_heap_options options = {.size = sizeof options, .name = "embed_cffi"};
        return dmi_heap_create(&options);
    }

    static char *reversed(void *heap, const char *text) {
        size_t length = strlen(text);
        char *made = dmi_heap_malloc(heap, length + 1);
        if (made == NULL) return NULL;
        for (size_t i = 0; i < length; i++) made[i] = text[length - 1 - i];
        made[length] = 0;
        return made;
    }
    """,
    include_dirs=[dmi.get_include()],
    library_dirs=dmi.get_library_dirs(),
    libraries=["dmi"],
)
