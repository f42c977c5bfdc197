// operators.cpp - every form of operator new and delete, called by name; new-handlers; exceptions.
#include <dlfcn.h>
#include <malloc.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#define CHECK(holds)                                                            \
    do {                                                                        \
        if (!(holds)) {                                                         \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #holds); \
            std::abort();                                                       \
        }                                                                       \
    } while (0)

static volatile std::size_t huge = PTRDIFF_MAX - 100;
static int calls;

// What a compiler may leave out it must not: that the result is not used is not known to it.
static void *kept(void *p) {
    asm volatile("" : "+r"(p) : : "memory");
    return p;
}

static bool aligned(const void *p, std::size_t align) {
    return (reinterpret_cast<std::uintptr_t>(p) & (align - 1)) == 0;
}

static void every_form() {
    for (std::size_t size : {0ul, 1ul, 16ul, 100ul, 1024ul, 5000ul, 40000ul, 2000000ul}) {
        void *p[12];
        p[0] = ::operator new(size);
        p[1] = ::operator new[](size);
        p[2] = ::operator new(size, std::nothrow);
        p[3] = ::operator new[](size, std::nothrow);
        p[4] = ::operator new(size);
        p[5] = ::operator new[](size);
        for (int i = 0; i < 6; i++) {
            CHECK(p[i] && aligned(p[i], 16) && malloc_usable_size(p[i]) >= size);
            std::memset(p[i], i, size);
        }
        for (std::size_t a : {16ul, 32ul, 64ul, 4096ul, 65536ul}) {
            std::align_val_t align{a};
            p[6] = ::operator new(size, align);
            p[7] = ::operator new[](size, align);
            p[8] = ::operator new(size, align, std::nothrow);
            p[9] = ::operator new[](size, align, std::nothrow);
            p[10] = ::operator new(size, align);
            p[11] = ::operator new[](size, align);
            for (int i = 6; i < 12; i++) {
                CHECK(p[i] && aligned(p[i], a) && malloc_usable_size(p[i]) >= size);
                std::memset(p[i], i, size);
            }
            ::operator delete(p[6], align);
            ::operator delete[](p[7], align);
            ::operator delete(p[8], align, std::nothrow);
            ::operator delete[](p[9], align, std::nothrow);
            ::operator delete(p[10], size, align);
            ::operator delete[](p[11], size, align);
        }
        ::operator delete(p[0]);
        ::operator delete[](p[1]);
        ::operator delete(p[2], std::nothrow);
        ::operator delete[](p[3], std::nothrow);
        ::operator delete(p[4], size);
        ::operator delete[](p[5], size);
    }
    ::operator delete(nullptr);
    ::operator delete[](nullptr);
}

template <class F> static bool throws(F f) {
    try {
        f();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

static void out_of_memory() {
    std::align_val_t align{64};
    CHECK(throws([] { (void)kept(::operator new(huge)); }));
    CHECK(throws([] { (void)kept(::operator new[](huge)); }));
    CHECK(throws([=] { (void)kept(::operator new(huge, align)); }));
    CHECK(throws([=] { (void)kept(::operator new[](huge, align)); }));
    CHECK(!kept(::operator new(huge, std::nothrow)));
    CHECK(!kept(::operator new[](huge, std::nothrow)));
    CHECK(!kept(::operator new(huge, align, std::nothrow)));
    CHECK(!kept(::operator new[](huge, align, std::nothrow)));
}

static void handlers() {
    std::align_val_t align{64};
    auto counting = [] {
        if (++calls % 3 == 0) std::set_new_handler(nullptr);
    };
    auto throwing = [] {
        calls++;
        throw std::bad_alloc();
    };
    calls = 0;
    std::set_new_handler(counting);
    CHECK(throws([] { (void)kept(::operator new(huge)); }) && calls == 3);
    std::set_new_handler(counting);
    CHECK(!kept(::operator new(huge, std::nothrow)) && calls == 6);
    std::set_new_handler(counting);
    CHECK(throws([=] { (void)kept(::operator new(huge, align)); }) && calls == 9);
    std::set_new_handler(throwing);
    CHECK(throws([] { (void)kept(::operator new[](huge)); }) && calls == 10);
    CHECK(!kept(::operator new(huge, std::nothrow)) && calls == 11);
    CHECK(!kept(::operator new[](huge, align, std::nothrow)) && calls == 12);
    std::set_new_handler(nullptr);
}

struct alignas(128) Wide {
    double data[16];
};

static void as_programs_do() {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([t] {
            std::map<std::string, std::unique_ptr<Wide>> made;
            for (int i = 0; i < 3000; i++) {
                auto &entry = made[std::to_string(i * 7919 % 1000) + std::string(t * 20, 'x')];
                entry.reset(new Wide());
                CHECK(aligned(entry.get(), 128));
            }
        });
    for (auto &thread : threads) thread.join();
}

struct Static {
    std::string text = std::string(1000, 's');
    ~Static() { CHECK(text[999] == 's'); }
} before_main_and_after;

int main() {
    CHECK(dlsym(RTLD_DEFAULT, "dmi_version"));
    for (int round = 0; round < 20; round++) every_form();
    out_of_memory();
    handlers();
    as_programs_do();
    return 0;
}
