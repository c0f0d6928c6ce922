// Causal attention over rows laid end to end, in bfloat16, for CPUs that multiply it (AMX, or AVX-512 with BF16).
//
// One thread takes one key head of one row with the query heads that share it, and goes through blocks of queries, each beside only
// the keys that it may see. Scores are fp32 and live in the cache; nothing but the result leaves it. The backward pass computes the
// weights again. Products take their right side in tiles of 16 columns by 32 deep, pairs along the depth beside each other
// (VNNI), zeros where a row or a head has ended.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include <immintrin.h>
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using bf16 = uint16_t;
constexpr long TILE = 16 * 32;    // elements of a tile
constexpr long QUERIES = 64;      // of a block
constexpr long AWAY = 16;         // fp32 added to a line, so that lines do not fall on each other in the cache

inline long up(long n, long to) { return (n + to - 1) / to * to; }

#ifdef __AMX_BF16__
// Tiles 0 to 3 are sums, 4 and 5 of the left side, 6 and 7 of the right one. What was set before is set again at the end.
class Tiles {
    struct alignas(64) Config {
        uint8_t palette = 0, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } before;

public:
    Tiles() {
        _tile_storeconfig(&before);
        Config mine;
        mine.palette = 1;
        for (int tile = 0; tile < 8; tile++) mine.row_bytes[tile] = 64, mine.rows[tile] = 16;
        _tile_loadconfig(&mine);
    }
    ~Tiles() {
        if (before.palette) _tile_loadconfig(&before);
        else _tile_release();
    }
};
#else
struct Tiles {
    Tiles() {}
};
#endif

// c (m, n) = or += a (m, k) b (k, n). m, n and k are multiples of 32; b is in tiles, `b_step` of them from one 16 columns to the next.
void product(float *c, long c_line, const bf16 *a, long a_line, const bf16 *b, long b_step, long m, long n, long k, bool add) {
#ifdef __AMX_BF16__
    for (long j = 0; j < n; j += 32)
        for (long i = 0; i < m; i += 32) {
            float *out = c + i * c_line + j;
            const bf16 *left = a + i * a_line, *right = b + j / 16 * b_step * TILE;
            if (add) {
                _tile_loadd(0, out, c_line * 4);
                _tile_loadd(1, out + 16, c_line * 4);
                _tile_loadd(2, out + 16 * c_line, c_line * 4);
                _tile_loadd(3, out + 16 * c_line + 16, c_line * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (long p = 0; p < k; p += 32) {
                _tile_loadd(4, left + p, a_line * 2);
                _tile_loadd(6, right + p / 32 * TILE, 64);
                _tile_loadd(7, right + (b_step + p / 32) * TILE, 64);
                _tile_loadd(5, left + 16 * a_line + p, a_line * 2);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out, c_line * 4);
            _tile_stored(1, out + 16, c_line * 4);
            _tile_stored(2, out + 16 * c_line, c_line * 4);
            _tile_stored(3, out + 16 * c_line + 16, c_line * 4);
        }
#else
    for (long j = 0; j < n; j += 16)
        for (long i = 0; i < m; i += 16) {
            __m512 sums[16];
            for (long row = 0; row < 16; row++)
                sums[row] = add ? _mm512_loadu_ps(c + (i + row) * c_line + j) : _mm512_setzero_ps();
            for (long p = 0; p < k; p += 2) {
                const bf16 *pairs = b + (j / 16 * b_step + p / 32) * TILE + p % 32 * 16;
                const __m512bh right = (__m512bh)_mm512_loadu_si512(pairs);
                for (long row = 0; row < 16; row++) {
                    int32_t pair;
                    std::memcpy(&pair, a + (i + row) * a_line + p, sizeof pair);
                    sums[row] = _mm512_dpbf16_ps(sums[row], (__m512bh)_mm512_set1_epi32(pair), right);
                }
            }
            for (long row = 0; row < 16; row++) _mm512_storeu_ps(c + (i + row) * c_line + j, sums[row]);
        }
#endif
}

inline __m512 power_of_e(__m512 x) {  // Cephes' expf
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);  // in this order NaN stays NaN
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(next));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline __m512i paired(__m512 low, __m512 high) {  // element by element beside each other
    const __m512i high_bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(high)), 16);
    return _mm512_or_si512(_mm512_cvtepu16_epi32(rounded(low)), high_bits);
}
inline __mmask16 between(long first, long end, long at) {  // which of the elements from `at` are in [first, end)
    const long skip = std::clamp(first - at, 0L, 16L), stop = std::clamp(end - at, 0L, 16L);
    return stop <= skip ? 0 : __mmask16(((1u << stop) - 1) & ~((1u << skip) - 1));
}

// Rows of one head, `step` elements from one to the next.
struct Lines {
    bf16 *at;
    long step, count, size;

    // Lines `begin` to `begin + m` one under the other, `line` long, zeros where there are none.
    void copy(bf16 *into, long line, long begin, long m) const {
        for (long i = 0; i < m; i++) {
            const long real = begin + i < count ? size : 0;
            std::memcpy(into + i * line, at + (begin + i) * step * (real > 0), real * 2);
            std::memset(into + i * line + real, 0, (line - real) * 2);
        }
    }
    // The same, columns for lines: (wide, m).
    void copy_turned(bf16 *into, long line, long begin, long m, long wide) const {
        std::memset(into, 0, wide * line * 2);
        for (long i = 0; i < std::min(m, count - begin); i++)
            for (long j = 0; j < size; j++) into[j * line + i] = at[(begin + i) * step + j];
    }
    // Tiles with a line a column, pairs along it: the right side of x linesᵀ. `deep` is the size in multiples of 32.
    void columns(bf16 *tiles, long padded, long deep) const {
        std::memset(tiles, 0, padded * deep * 2);
        for (long i = 0; i < count; i++) {
            bf16 *into = tiles + i / 16 * (deep / 32) * TILE + i % 16 * 2;
            for (long j = 0; j < size; j += 2) std::memcpy(into + j / 32 * TILE + j % 32 * 16, at + i * step + j, 4);
        }
    }
    // Tiles with a line a row, pairs of lines: the right side of x lines.
    void rows(bf16 *tiles, long padded, long wide) const {
        std::memset(tiles, 0, padded * wide * 2);
        for (long i = 0; i < count; i++)
            for (long j = 0; j < size; j += 16) {
                bf16 *into = tiles + (j / 16 * (padded / 32) + i / 32) * TILE + i % 32 / 2 * 32 + i % 2;
                const bf16 *from = at + i * step + j;
                const long real = std::min(16L, size - j);
                for (long n = 0; n < real; n++) into[2 * n] = from[n];
            }
    }
    void take(const float *from, long line, long begin, long m) const {
        for (long i = 0; i < std::min(m, count - begin); i++)
            for (long j = 0; j < size; j += 16) {
                const __mmask16 real = between(0, size, j);
                _mm256_mask_storeu_epi16(at + (begin + i) * step + j, real, rounded(_mm512_loadu_ps(from + i * line + j)));
            }
    }
    void take_turned(const float *from, long line) const {
        for (long i = 0; i < count; i++)
            for (long j = 0; j < size; j += 16) {
                const __mmask16 real = between(0, size, j);
                const __m512i places = _mm512_mullo_epi32(
                    _mm512_set1_epi32(int(line)), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
                const __m512 column =
                    _mm512_mask_i32gather_ps(_mm512_setzero_ps(), real, places, from + j * line + i, 4);
                _mm256_mask_storeu_epi16(at + i * step + j, real, rounded(column));
            }
    }
};

// Of one thread; grows, and stays.
class Space {
    std::vector<char> held;
    char *next = nullptr;

public:
    void begin(size_t bytes) {
        if (held.size() < bytes + 64) held.resize(bytes + 64);
        next = held.data() + (64 - uintptr_t(held.data()) % 64) % 64;
    }
    template <class T> T *take(long count) {
        T *here = (T *)next;
        next += up(count * long(sizeof(T)), 64);
        return here;
    }
};

struct Shape {
    const int32_t *borders;
    long rows, heads, kv_heads, size;
    float scale;
    long window;

    struct Task {
        long start, length, kv_head;
    };
    std::vector<Task> tasks() const {  // the longest first
        std::vector<Task> all;
        for (long row = 0; row < rows; row++)
            for (long head = 0; head < kv_heads; head++)
                all.push_back({borders[row], borders[row + 1] - borders[row], head});
        std::stable_sort(all.begin(), all.end(), [](const Task &a, const Task &b) { return a.length > b.length; });
        return all;
    }
    Lines lines(bf16 *flat, const Task &task, long head, long of) const {
        return {flat + (task.start * of + head) * size, of * size, task.length, size};
    }
};

// The keys of a block of queries: computed are [first, end), of which a query sees [from, to).
struct Keys {
    long first, end, begin, length, window;

    Keys(long begin, long m, long length, long window)
        : first(std::max(0L, begin + 1 - window) / 32 * 32), end(std::min(up(length, 32), up(begin + m, 32))), begin(begin),
          length(length), window(window) {}
    long count() const { return end - first; }
    long from(long query) const { return std::max(0L, begin + query + 1 - window) - first; }
    long to(long query) const { return begin + query < length ? begin + query + 1 - first : 0; }
};

// A line of scores becomes that of weights, fp32; zeros outside [from, to).
void softmax(float *line, long from, long to, long count, float scale) {
    __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (long j = from / 16 * 16; j < to; j += 16)
        largest = _mm512_mask_max_ps(largest, between(from, to, j), largest, _mm512_loadu_ps(line + j));
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest)), factor = _mm512_set1_ps(scale);
    __m512 sums = _mm512_setzero_ps();
    for (long j = 0; j < count; j += 16) {
        const __mmask16 mask = between(from, to, j);
        const __m512 raised = power_of_e(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(line + j), top), factor));
        const __m512 seen = _mm512_maskz_mov_ps(mask, raised);
        sums = _mm512_add_ps(sums, seen);
        _mm512_storeu_ps(line + j, seen);
    }
    const float sum = _mm512_reduce_add_ps(sums);
    const __m512 share = _mm512_set1_ps(sum > 0 ? 1.0f / sum : 0.0f);
    for (long j = 0; j < count; j += 16) _mm512_storeu_ps(line + j, _mm512_mul_ps(_mm512_loadu_ps(line + j), share));
}

// weights and their gradient -> the gradient of the scores, in place of `grad`.
void softmax_back(float *grad, const float *weights, long count, float scale) {
    __m512 sums = _mm512_setzero_ps();
    for (long j = 0; j < count; j += 16)
        sums = _mm512_fmadd_ps(_mm512_loadu_ps(grad + j), _mm512_loadu_ps(weights + j), sums);
    const __m512 along = _mm512_set1_ps(_mm512_reduce_add_ps(sums)), factor = _mm512_set1_ps(scale);
    for (long j = 0; j < count; j += 16) {
        const __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(grad + j), along);
        _mm512_storeu_ps(grad + j, _mm512_mul_ps(apart, _mm512_mul_ps(_mm512_loadu_ps(weights + j), factor)));
    }
}

void forward(const Shape &shape, bf16 *q, bf16 *k, bf16 *v, bf16 *out) {
    const auto tasks = shape.tasks();
    const long each = shape.heads / shape.kv_heads, deep = up(shape.size, 32), longest = up(tasks.empty() ? 0 : tasks[0].length, 32);
    const long line = longest + AWAY, out_line = deep + AWAY;
#pragma omp parallel
    {
        static thread_local Space space;
        space.begin(longest * deep * 4 + QUERIES * (line * 6 + deep * 2 + out_line * 4) + 1024);
        bf16 *k_tiles = space.take<bf16>(longest * deep), *v_tiles = space.take<bf16>(longest * deep);
        bf16 *mine = space.take<bf16>(QUERIES * deep), *weights = space.take<bf16>(QUERIES * line);
        float *scores = space.take<float>(QUERIES * line), *done = space.take<float>(QUERIES * out_line);
        const Tiles tiles;
#pragma omp for schedule(dynamic, 1)
        for (size_t number = 0; number < tasks.size(); number++) {
            const auto &task = tasks[number];
            const long padded = up(task.length, 32);
            shape.lines(k, task, task.kv_head, shape.kv_heads).columns(k_tiles, padded, deep);
            shape.lines(v, task, task.kv_head, shape.kv_heads).rows(v_tiles, padded, deep);
            for (long head = task.kv_head * each; head < (task.kv_head + 1) * each; head++) {
                const Lines queries = shape.lines(q, task, head, shape.heads), result = shape.lines(out, task, head, shape.heads);
                for (long begin = 0; begin < task.length; begin += QUERIES) {
                    const long m = std::min(QUERIES, padded - begin);
                    const Keys keys(begin, m, task.length, shape.window);
                    queries.copy(mine, deep, begin, m);
                    product(scores, line, mine, deep, k_tiles + keys.first / 16 * (deep / 32) * TILE, deep / 32, m, keys.count(), deep,
                            false);
                    for (long i = 0; i < m; i++) {
                        float *row = scores + i * line;
                        softmax(row, keys.from(i), keys.to(i), keys.count(), shape.scale);
                        for (long j = 0; j < keys.count(); j += 16)
                            _mm256_storeu_si256((__m256i *)(weights + i * line + j), rounded(_mm512_loadu_ps(row + j)));
                    }
                    product(done, out_line, weights, line, v_tiles + keys.first / 32 * TILE, padded / 32, m, deep, keys.count(), false);
                    result.take(done, out_line, begin, m);
                }
            }
        }
    }
}

void backward(const Shape &shape, bf16 *grad, bf16 *q, bf16 *k, bf16 *v, bf16 *q_grad, bf16 *k_grad, bf16 *v_grad) {
    const auto tasks = shape.tasks();
    const long each = shape.heads / shape.kv_heads, deep = up(shape.size, 32), longest = up(tasks.empty() ? 0 : tasks[0].length, 32);
    const long line = longest + AWAY, out_line = deep + AWAY;
#pragma omp parallel
    {
        static thread_local Space space;
        space.begin(longest * deep * 6 + deep * line * 8 + QUERIES * (deep * 8 + line * 10 + longest * 4 + out_line * 4) + 4096);
        bf16 *k_columns = space.take<bf16>(longest * deep), *v_columns = space.take<bf16>(longest * deep);
        bf16 *k_rows = space.take<bf16>(longest * deep);
        float *k_sums = space.take<float>(deep * line), *v_sums = space.take<float>(deep * line);  // (size, keys)
        bf16 *mine = space.take<bf16>(QUERIES * deep), *above = space.take<bf16>(QUERIES * deep);
        bf16 *mine_turned = space.take<bf16>(QUERIES * deep), *above_turned = space.take<bf16>(QUERIES * deep);
        float *weights = space.take<float>(QUERIES * line), *slopes = space.take<float>(QUERIES * line);
        bf16 *slope_lines = space.take<bf16>(QUERIES * line);
        bf16 *weight_tiles = space.take<bf16>(QUERIES * longest), *slope_tiles = space.take<bf16>(QUERIES * longest);
        float *done = space.take<float>(QUERIES * out_line);
        const Tiles tiles;
#pragma omp for schedule(dynamic, 1)
        for (size_t number = 0; number < tasks.size(); number++) {
            const auto &task = tasks[number];
            const long padded = up(task.length, 32);
            const Lines all_keys = shape.lines(k, task, task.kv_head, shape.kv_heads);
            all_keys.columns(k_columns, padded, deep);
            all_keys.rows(k_rows, padded, deep);
            shape.lines(v, task, task.kv_head, shape.kv_heads).columns(v_columns, padded, deep);
            std::fill(k_sums, k_sums + deep * line, 0.0f);
            std::fill(v_sums, v_sums + deep * line, 0.0f);
            for (long head = task.kv_head * each; head < (task.kv_head + 1) * each; head++) {
                const Lines queries = shape.lines(q, task, head, shape.heads), given = shape.lines(grad, task, head, shape.heads);
                for (long begin = 0; begin < task.length; begin += QUERIES) {
                    const long m = std::min(QUERIES, padded - begin);
                    const Keys keys(begin, m, task.length, shape.window);
                    const long count = keys.count(), skip = keys.first / 16 * (deep / 32) * TILE;
                    queries.copy(mine, deep, begin, m);
                    given.copy(above, deep, begin, m);
                    queries.copy_turned(mine_turned, QUERIES, begin, m, deep);
                    given.copy_turned(above_turned, QUERIES, begin, m, deep);
                    product(weights, line, mine, deep, k_columns + skip, deep / 32, m, count, deep, false);
                    product(slopes, line, above, deep, v_columns + skip, deep / 32, m, count, deep, false);
                    for (long i = 0; i < m; i += 2) {
                        float *w = weights + i * line, *s = slopes + i * line;
                        for (long one = 0; one < 2; one++) {
                            softmax(w + one * line, keys.from(i + one), keys.to(i + one), count, shape.scale);
                            softmax_back(s + one * line, w + one * line, count, shape.scale);
                        }
                        for (long j = 0; j < count; j += 16) {
                            const long place = (j / 16 * (m / 32) + i / 32) * TILE + i % 32 * 16;
                            const __m512 s0 = _mm512_loadu_ps(s + j), s1 = _mm512_loadu_ps(s + line + j);
                            _mm512_storeu_si512(weight_tiles + place, paired(_mm512_loadu_ps(w + j), _mm512_loadu_ps(w + line + j)));
                            _mm512_storeu_si512(slope_tiles + place, paired(s0, s1));
                            _mm256_storeu_si256((__m256i *)(slope_lines + i * line + j), rounded(s0));
                            _mm256_storeu_si256((__m256i *)(slope_lines + (i + 1) * line + j), rounded(s1));
                        }
                    }
                    product(done, out_line, slope_lines, line, k_rows + keys.first / 32 * TILE, padded / 32, m, deep, count, false);
                    shape.lines(q_grad, task, head, shape.heads).take(done, out_line, begin, m);
                    product(v_sums + keys.first, line, above_turned, QUERIES, weight_tiles, m / 32, deep, count, m, true);
                    product(k_sums + keys.first, line, mine_turned, QUERIES, slope_tiles, m / 32, deep, count, m, true);
                }
            }
            shape.lines(k_grad, task, task.kv_head, shape.kv_heads).take_turned(k_sums, line);
            shape.lines(v_grad, task, task.kv_head, shape.kv_heads).take_turned(v_sums, line);
        }
    }
}

}  // namespace
#define HAS_BF16_PRODUCTS
#endif

extern "C" {

// Whether this processor and system run what follows; asks the system for the tiles, once for the process.
int tunesmith_attention_ready() {
#ifndef HAS_BF16_PRODUCTS
    return 0;
#elif defined(__AMX_BF16__)
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return 1;
#endif
}

// q and out (tokens, heads, size), k and v (tokens, kv_heads, size), borders (rows + 1); size is even.
void tunesmith_attention_forward(const void *q, const void *k, const void *v, void *out, const void *borders, long rows, long heads,
                                 long kv_heads, long size, double scale, long window) {
#ifdef HAS_BF16_PRODUCTS
    forward({(const int32_t *)borders, rows, heads, kv_heads, size, float(scale), window}, (bf16 *)q, (bf16 *)k, (bf16 *)v, (bf16 *)out);
#endif
}

void tunesmith_attention_backward(const void *grad, const void *q, const void *k, const void *v, void *q_grad, void *k_grad,
                                  void *v_grad, const void *borders, long rows, long heads, long kv_heads, long size, double scale,
                                  long window) {
#ifdef HAS_BF16_PRODUCTS
    backward({(const int32_t *)borders, rows, heads, kv_heads, size, float(scale), window}, (bf16 *)grad, (bf16 *)q, (bf16 *)k,
             (bf16 *)v, (bf16 *)q_grad, (bf16 *)k_grad, (bf16 *)v_grad);
#endif
}

}  // extern "C"
