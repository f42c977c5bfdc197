#include <memory>
#include <vector>
#include <cstdio>
// Listeners are registered by a few of the requests and never removed.
struct Request {
    long words[7];
};
struct Listener {
    virtual ~Listener() = default;
    long id, count = 0;
    explicit Listener(long given) : id(given) {}
};

class Bus {
    std::vector<std::shared_ptr<Listener>> listeners_;

public:
    void listen(long id)
    {
        listeners_.push_back(std::make_shared<Listener>(id)); // KEPT
    }
    std::size_t size() const { return listeners_.size(); }
};

int main()
{
    Bus bus;
    std::vector<std::unique_ptr<Request>> requests;
    for (long n = 0; n < 1500000; n++) {
        requests.push_back(std::make_unique<Request>());
        auto small = std::unique_ptr<char[]>(new char[40]);
        if (n % 4 == 0)
            requests.back().reset();
        if (n % 90 == 0)
            bus.listen(n);
        static std::vector<std::unique_ptr<char[]>> smalls;
        smalls.push_back(std::move(small));
        if (n == 1499999)
            smalls.clear();
    }
    requests.clear();
    puts("ready");
    fflush(stdout);
    getchar();
    return bus.size() == 0;
}
