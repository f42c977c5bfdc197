/* test_own.c - the list of the library's own mappings, for readers from outside. */
#include "floors.h"
#include "inspect/layout.h"
#include "os/own.h"

/* The place of an area; -1: it is not listed. */
static int place_of(const void *base) {
    for (int i = 0; i < DMI_OWN_AREAS; i++)
        if (_dmi_own.area[i].base == base) return i;
    return -1;
}

TEST_EACH_PAGE(what_is_reserved_is_listed_and_led_to) {
    size_t size = 16 * _dmi_os_page_size();
    char *made = _dmi_own_reserve(size, "dmi-a-name-that-is-too-long");
    ENSURE(made);
    ENSURE(dmi_layout_root.own == &_dmi_own && _dmi_own.areas == DMI_OWN_AREAS);
    ENSURE(_dmi_own.area_size == sizeof(dmi_own_area));
    int place = place_of(made);
    ENSURE(place < 0 || _dmi_own.area[place].size == size);
    ENSURE(place < 0 || memcmp(_dmi_own.area[place].name, "dmi-a-name-that-", 16) == 0);
    (void)_dmi_os_release(made, size);
}

TEST_EACH_PAGE(a_full_list_takes_no_more) {
    for (size_t i = 0; i < 2 * DMI_OWN_AREAS; i++)
        _dmi_own_add((const char *)0x10000 + i * 4096, 4096, "test");
    ENSURE(place_of((const char *)0x10000 + (2 * DMI_OWN_AREAS - 1) * 4096) < 0);
    size_t page = _dmi_os_page_size();
    char *made = _dmi_own_reserve(page, "late"); /* it serves, and nobody is told */
    ENSURE(made && place_of(made) < 0);
    (void)_dmi_os_release(made, page);
}
