/* The yardsticks: what a memory-bound loop costs in C, for the kernels to be measured against.
 *
 * Contract of all three: `words` are n aligned 32-bit words; `threads` threads share them in equal
 * consecutive parts; no function allocates, none can fail.
 * Build: cc -O3 -march=native -fopenmp -shared -fPIC yardstick.c -o yardstick.so
 */

#include <stdint.h>

/* Return how many words are zero under `mask`: what low_zero_count has to keep up with. */
int64_t low_zero(const uint32_t *words, int64_t n, uint32_t mask, int threads) {
    int64_t count = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : count)
    for (int64_t i = 0; i < n; i++)
        count += (words[i] & mask) == 0;
    return count;
}

/* Return the OR of all words: the least work that still reads each one, so the speed of memory. */
uint32_t read_or(const uint32_t *words, int64_t n, int threads) {
    uint32_t all = 0;
#pragma omp parallel for num_threads(threads) reduction(| : all)
    for (int64_t i = 0; i < n; i++)
        all |= words[i];
    return all;
}

/* Keep only the bits in `mask`, in place. NaNs are not looked after and nothing is counted: truncate
 * does both in the same pass, this is the pass alone. */
void and_loop(uint32_t *words, int64_t n, uint32_t mask, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i++)
        words[i] &= mask;
}
