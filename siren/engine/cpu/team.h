// Threads that work through phases together, each of which needs the results of the one before.
#pragma once

#include <atomic>
#include <thread>

#include "cpu/parallel.h"

namespace siren {

// All threads of a team make the same calls of `each`, one for each phase. A thread that has to wait
// soon lets others run: on a busy machine, OpenMP's barriers, which spin, may make a phase of a
// fraction of a millisecond last 8 ms.
class Team {
public:
    // Calls work(team) in all threads at once; in this one alone unless `threaded`.
    template <class Work>
    static void run(bool threaded, const Work& work) {
        Team team;
#ifdef _OPENMP
#pragma omp parallel if (threaded)
        {
#pragma omp single
            team.threads_ = omp_get_num_threads();
            work(team);
        }
#else
        work(team);
#endif
    }

    // Calls work(unit) for unit = 0 .. units-1, each in the next thread that is free; returns when
    // all are done.
    template <class Work>
    void each(int units, const Work& work) {
        for (int unit = next_++; unit < units; unit = next_++) work(unit);
        wait();
    }

private:
    void wait() {
        const int phase = phase_;
        if (++arrived_ == threads_) {
            arrived_ = 0;
            next_ = 0;
            ++phase_;
        } else {
            for (int turn = 0; phase_ == phase; ++turn) {
                if (turn > 2000) std::this_thread::yield();
            }
        }
    }

    int threads_ = 1;
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
};

}  // namespace siren
