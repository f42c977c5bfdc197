// dmi.hpp - a heap for C++: a memory resource, an allocator, and an owner. Header only.
//
// Over the linked library as it is; in an extension module include <dmi/capi.h> first, and the calls go
// through the imported table. None of these owns a heap but dmi::heap.
#ifndef DMI_HPP
#define DMI_HPP

#include <cstddef>
#include <cstdint>
#include <dmi/dmi.h>
#include <limits>
#include <memory_resource>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include <cerrno>

namespace dmi {

namespace detail {

// What every heap guarantees without being asked.
constexpr std::size_t default_align = 16;

inline void *allocate(void *heap, std::size_t bytes, std::size_t align) {
    void *block = align <= default_align ? dmi_heap_malloc(heap, bytes)
                                         : dmi_heap_aligned_alloc(heap, align, bytes);
    if (block == nullptr) throw std::bad_alloc();
    return block;
}

} // namespace detail

// A heap that lives as long as this object. The containers on it must go first; while others hold it
// (dmi_heap_hold) it stays, and somebody else must destroy it.
class heap {
  public:
    // std::system_error with the errno of dmi_heap_create.
    explicit heap(const dmi_heap_options *options = nullptr) : handle_(dmi_heap_create(options)) {
        if (handle_ == nullptr)
            throw std::system_error(errno, std::generic_category(), "dmi::heap");
    }
    explicit heap(const char *name) : handle_(nullptr) {
        dmi_heap_options options = {};
        options.size = sizeof options;
        options.name = name;
        handle_ = dmi_heap_create(&options);
        if (handle_ == nullptr)
            throw std::system_error(errno, std::generic_category(), "dmi::heap");
    }
    ~heap() {
        if (handle_ != nullptr) dmi_heap_destroy(handle_);
    }
    heap(heap &&other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    heap(const heap &) = delete;
    heap &operator=(const heap &) = delete;
    heap &operator=(heap &&) = delete;

    void *handle() const noexcept { return handle_; }

    // Destroy it now. std::system_error with EBUSY, naming one who holds it, leaves it as it is.
    void destroy() {
        if (handle_ == nullptr) return;
        if (dmi_heap_destroy(handle_) != 0) {
            int error = errno;
            char who[48];
            std::string what = "dmi::heap";
            if (error == EBUSY && dmi_heap_holder(handle_, 0, who, sizeof who, nullptr) == 0)
                what += std::string(" held by ") + who;
            throw std::system_error(error, std::generic_category(), what);
        }
        handle_ = nullptr;
    }

  private:
    void *handle_;
};

// Keeps a heap that somebody else made from being destroyed as long as this object lives: for whoever
// has blocks or containers there. The name is copied; it is what a refusal to destroy shows.
class hold {
  public:
    // std::system_error with EINVAL for a heap that is gone.
    hold(void *heap, std::string who) : heap_(heap), who_(std::move(who)) {
        if (dmi_heap_hold(heap_, who_.c_str()) != 0)
            throw std::system_error(errno, std::generic_category(), "dmi::hold");
    }
    ~hold() { dmi_heap_unhold(heap_, who_.c_str()); }
    hold(const hold &) = delete;
    hold &operator=(const hold &) = delete;

  private:
    void *heap_;
    std::string who_;
};

// For std::pmr containers. Two resources are equal when they name the same heap.
class heap_resource final : public std::pmr::memory_resource {
  public:
    explicit heap_resource(void *heap) noexcept : heap_(heap) {}
    explicit heap_resource(const heap &owner) noexcept : heap_(owner.handle()) {}
    void *handle() const noexcept { return heap_; }

  private:
    void *do_allocate(std::size_t bytes, std::size_t align) override {
        return detail::allocate(heap_, bytes, align);
    }
    void do_deallocate(void *block, std::size_t bytes, std::size_t) override {
        dmi_heap_free_sized(heap_, block, bytes);
    }
    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
#ifdef __cpp_rtti
        const auto *same = dynamic_cast<const heap_resource *>(&other);
        return same != nullptr && same->heap_ == heap_;
#else
        return this == &other; // who the other one is cannot be asked
#endif
    }

    void *heap_;
};

// For containers with an allocator parameter: std::vector<int, dmi::allocator<int>> v(allocator).
template <class T> class allocator {
  public:
    using value_type = T;

    explicit allocator(void *heap) noexcept : heap_(heap) {}
    explicit allocator(const heap &owner) noexcept : heap_(owner.handle()) {}
    template <class U> allocator(const allocator<U> &other) noexcept : heap_(other.handle()) {}

    T *allocate(std::size_t count) {
        if (count > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        return static_cast<T *>(detail::allocate(heap_, count * sizeof(T), alignof(T)));
    }
    void deallocate(T *block, std::size_t count) noexcept {
        dmi_heap_free_sized(heap_, block, count * sizeof(T));
    }
    void *handle() const noexcept { return heap_; }

    template <class U> bool operator==(const allocator<U> &other) const noexcept {
        return heap_ == other.handle();
    }
    template <class U> bool operator!=(const allocator<U> &other) const noexcept {
        return heap_ != other.handle();
    }

  private:
    void *heap_;
};

} // namespace dmi

#endif
