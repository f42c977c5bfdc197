#include <list>
#include <vector>
#include <cstdio>
// A history that keeps one entry for each batch of events.
struct Event {
    void *next, *previous;
    long what, when;
};

class History {
    std::list<std::pair<long, long>> entries_;

public:
    void add(long n)
    {
        entries_.emplace_back(n, n * n); // KEPT
    }
    bool empty() const { return entries_.empty(); }
};

int main()
{
    History history;
    std::vector<Event *> events;
    for (long n = 0; n < 2000000; n++) {
        events.push_back(new Event{nullptr, nullptr, n, n});
        if (n % 110 == 7)
            history.add(n);
    }
    for (Event *event : events)
        delete event;
    puts("ready");
    fflush(stdout);
    getchar();
    return history.empty();
}
