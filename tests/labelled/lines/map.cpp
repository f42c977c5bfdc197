#include <map>
#include <string>
#include <vector>
#include <cstdio>
// A register of what was seen once in a hundred orders; the orders are gone at the end of the day.
struct Order {
    long number, price, amount, buyer, seller, day;
};

static std::map<long, long> seen;

static void remember(long number)
{
    seen[number] = number * 3; // KEPT
}

int main()
{
    std::vector<Order *> orders;
    for (long n = 0; n < 1400000; n++) {
        orders.push_back(new Order{n, 1, 2, 3, 4, 5});
        if (n % 84 == 0)
            remember(n);
    }
    for (Order *order : orders)
        delete order;
    puts("ready");
    fflush(stdout);
    getchar();
    return seen.empty();
}
