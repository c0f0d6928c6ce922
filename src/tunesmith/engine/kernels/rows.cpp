// Passes over activations, for CPUs: each reads and writes its tensors once, computes in fp32 (fp64 for fp64) and rounds once.
//
// Plain loops that a compiler turns into vectors; no intrinsics, so any processor will do. Built on the machine that runs them
// (engine/kernels/__init__.py). Tensors are contiguous unless a stride is given; strides are in elements.
// `kind`: 0 bfloat16, 1 fp32, 2 fp64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>

namespace {

struct bf16 {
    uint16_t bits;
};

template <class T> struct ExactOf { using type = float; };
template <> struct ExactOf<double> { using type = double; };
template <class T> using Exact = typename ExactOf<T>::type;

inline float get(bf16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline float get(float x) { return x; }
inline double get(double x) { return x; }

inline void put(bf16 &into, float value) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    into.bits = uint16_t(value == value ? rounded : 0x7fc0);
}
inline void put(float &into, float value) { into = value; }
inline void put(double &into, double value) { into = value; }

inline float power_of_e(float x) {  // Cephes' expf: 2^n times a polynomial; written so that NaN stays NaN
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float n = std::nearbyint(x * 1.44269504088896341f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
inline double power_of_e(double x) { return std::exp(x); }

// y = x * s * (w + offset), s = 1 / sqrt(mean(x^2) + eps)
template <class T>
void norm_forward(const T *x, const T *weight, T *y, Exact<T> *scales, long rows, long size, double eps, double offset) {
    using E = Exact<T>;
    const E off = E(offset);
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const T *in = x + row * size;
        T *out = y + row * size;
        E squares = 0;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < size; i++) squares += get(in[i]) * get(in[i]);
        const E scale = E(1) / std::sqrt(squares / E(size) + E(eps));
        scales[row] = scale;
#pragma omp simd
        for (long i = 0; i < size; i++) put(out[i], get(in[i]) * scale * (get(weight[i]) + off));
    }
}

// Gradients of x, and of the weight where `weight_grad` (size,) is given: each thread sums its rows, the sums are added in order.
template <class T>
void norm_backward(const T *grad, const T *x, const T *weight, const Exact<T> *scales, T *x_grad, Exact<T> *weight_grad, long rows,
                   long size, double offset) {
    using E = Exact<T>;
    const E off = E(offset);
    const int threads = omp_get_max_threads();
    std::vector<E> sums(weight_grad ? size * threads : 0, E(0));
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        const T *above = grad + row * size, *in = x + row * size;
        const E scale = scales[row];
        if (weight_grad) {
            E *sum = sums.data() + size * omp_get_thread_num();
#pragma omp simd
            for (long i = 0; i < size; i++) sum[i] += get(above[i]) * get(in[i]) * scale;
        }
        if (!x_grad) continue;
        T *out = x_grad + row * size;
        E along = 0;
#pragma omp simd reduction(+ : along)
        for (long i = 0; i < size; i++) along += get(above[i]) * (get(weight[i]) + off) * get(in[i]);
        along *= scale * scale / E(size);
#pragma omp simd
        for (long i = 0; i < size; i++) put(out[i], (get(above[i]) * (get(weight[i]) + off) - get(in[i]) * along) * scale);
    }
    if (weight_grad)
        for (long i = 0; i < size; i++) {
            weight_grad[i] = 0;
            for (int thread = 0; thread < threads; thread++) weight_grad[i] += sums[size * thread + i];
        }
}

constexpr long PIECE = 4096;  // elements that a thread takes at a time

// y = silu(gate) * up
template <class T> void swiglu_forward(const T *gate, const T *up, T *y, long count) {
    using E = Exact<T>;
#pragma omp parallel for schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        const long end = std::min(count, begin + PIECE);
#pragma omp simd
        for (long i = begin; i < end; i++) {
            const E g = get(gate[i]);
            put(y[i], g / (E(1) + power_of_e(-g)) * get(up[i]));
        }
    }
}

// From the gradient of y: y again, and the gradients of gate and up. `above` may be `up_grad`.
template <class T>
void swiglu_backward(const T *above, const T *gate, const T *up, T *y, T *gate_grad, T *up_grad, long count) {
    using E = Exact<T>;
#pragma omp parallel for schedule(static)
    for (long begin = 0; begin < count; begin += PIECE) {
        const long end = std::min(count, begin + PIECE);
#pragma omp simd
        for (long i = begin; i < end; i++) {
            const E g = get(gate[i]), u = get(up[i]), a = get(above[i]);
            const E open = E(1) / (E(1) + power_of_e(-g));
            const E active = g * open;
            put(y[i], active * u);
            put(up_grad[i], a * active);
            put(gate_grad[i], a * u * open * (E(1) + g * (E(1) - open)));
        }
    }
}

// x (tokens, heads, size), the last dimension contiguous; cos and sin (tokens, size); y (tokens, heads, size), contiguous.
// y = x cos + (-second half, first half) sin; `back` gives the gradient of x from that of y instead.
template <class T>
void rotate(const T *x, const T *cosine, const T *sine, T *y, long tokens, long heads, long size, long token_stride, long head_stride,
            int back) {
    using E = Exact<T>;
    const long half = size / 2;
#pragma omp parallel for schedule(static)
    for (long token = 0; token < tokens; token++) {
        const T *c = cosine + token * size, *s = sine + token * size;
        for (long head = 0; head < heads; head++) {
            const T *in = x + token * token_stride + head * head_stride;
            T *out = y + (token * heads + head) * size;
            if (back) {
#pragma omp simd
                for (long i = 0; i < half; i++) {
                    const E first = get(in[i]), second = get(in[half + i]);
                    put(out[i], first * get(c[i]) + second * get(s[half + i]));
                    put(out[half + i], second * get(c[half + i]) - first * get(s[i]));
                }
            } else {
#pragma omp simd
                for (long i = 0; i < half; i++) {
                    const E first = get(in[i]), second = get(in[half + i]);
                    put(out[i], first * get(c[i]) - second * get(s[i]));
                    put(out[half + i], second * get(c[half + i]) + first * get(s[half + i]));
                }
            }
        }
    }
}

// Keys that query number `query` of a block may see: `back` keys stand before the block's first query.
struct Seen {
    long first, end;
};
inline Seen seen(long query, long back, long window) { return {std::max(0L, back + query + 1 - window), back + query + 1}; }

// scores (batch, queries, keys) -> softmax(scale * scores) over the keys that may be seen, 0 elsewhere, in place.
template <class T> void softmax_forward(T *scores, long batch, long queries, long keys, long back, long window, double scale) {
    using E = Exact<T>;
#pragma omp parallel
    {
        std::vector<E> powers(keys);
#pragma omp for schedule(static, 16)
        for (long row = 0; row < batch * queries; row++) {
            T *line = scores + row * keys;
            const auto [first, end] = seen(row % queries, back, window);
            E largest = -std::numeric_limits<E>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
            for (long i = first; i < end; i++) largest = std::max(largest, E(get(line[i])));
            E *power = powers.data();
            const E factor = E(scale);
#pragma omp simd reduction(+ : sum)
            for (long i = first; i < end; i++) {
                power[i] = power_of_e((get(line[i]) - largest) * factor);
                sum += power[i];
            }
            const E share = E(1) / sum;
#pragma omp simd
            for (long i = first; i < end; i++) put(line[i], power[i] * share);
            std::memset(line, 0, first * sizeof(T));
            std::memset(line + end, 0, (keys - end) * sizeof(T));
        }
    }
}

// weights and their gradient `grad` (batch, queries, keys) -> the gradient of the scores, in place of `grad`.
template <class T>
void softmax_backward(T *grad, const T *weights, long batch, long queries, long keys, long back, long window, double scale) {
    using E = Exact<T>;
#pragma omp parallel for schedule(static, 16)
    for (long row = 0; row < batch * queries; row++) {
        T *line = grad + row * keys;
        const T *weight = weights + row * keys;
        const auto [first, end] = seen(row % queries, back, window);
        E along = 0;
#pragma omp simd reduction(+ : along)
        for (long i = first; i < end; i++) along += get(line[i]) * get(weight[i]);
        const E factor = E(scale);
#pragma omp simd
        for (long i = first; i < end; i++) put(line[i], (get(line[i]) - along) * get(weight[i]) * factor);
        std::memset(line, 0, first * sizeof(T));
        std::memset(line + end, 0, (keys - end) * sizeof(T));
    }
}

// losses[i] = -log softmax(logits[i])[targets[i]]; where `to_grad`, the logits give way to the gradient of their loss.
template <class T>
void cross_entropy(T *logits, const int64_t *targets, Exact<T> *losses, long rows, long vocabulary, int to_grad) {
    using E = Exact<T>;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        T *line = logits + row * vocabulary;
        E largest = -std::numeric_limits<E>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
        for (long i = 0; i < vocabulary; i++) largest = std::max(largest, E(get(line[i])));
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < vocabulary; i++) sum += power_of_e(get(line[i]) - largest);
        const E wanted = get(line[targets[row]]);
        losses[row] = std::log(sum) + largest - wanted;
        if (!to_grad) continue;
        const E share = E(1) / sum;
        const E right = power_of_e(wanted - largest) * share - E(1);
#pragma omp simd
        for (long i = 0; i < vocabulary; i++) put(line[i], power_of_e(get(line[i]) - largest) * share);
        put(line[targets[row]], right);
    }
}

}  // namespace

#define BY_KIND(kind, call)                    \
    switch (kind) {                            \
    case 0: { using T = bf16; call; break; }   \
    case 1: { using T = float; call; break; }  \
    default: { using T = double; call; break; } \
    }

extern "C" {

void tunesmith_norm_forward(int kind, const void *x, const void *weight, void *y, void *scales, long rows, long size, double eps,
                            double offset) {
    BY_KIND(kind, norm_forward<T>((const T *)x, (const T *)weight, (T *)y, (Exact<T> *)scales, rows, size, eps, offset))
}

void tunesmith_norm_backward(int kind, const void *grad, const void *x, const void *weight, const void *scales, void *x_grad,
                             void *weight_grad, long rows, long size, double offset) {
    BY_KIND(kind, norm_backward<T>((const T *)grad, (const T *)x, (const T *)weight, (const Exact<T> *)scales, (T *)x_grad,
                                   (Exact<T> *)weight_grad, rows, size, offset))
}

void tunesmith_swiglu_forward(int kind, const void *gate, const void *up, void *y, long count) {
    BY_KIND(kind, swiglu_forward<T>((const T *)gate, (const T *)up, (T *)y, count))
}

void tunesmith_swiglu_backward(int kind, const void *above, const void *gate, const void *up, void *y, void *gate_grad, void *up_grad,
                               long count) {
    BY_KIND(kind, swiglu_backward<T>((const T *)above, (const T *)gate, (const T *)up, (T *)y, (T *)gate_grad, (T *)up_grad, count))
}

void tunesmith_rotate(int kind, const void *x, const void *cosine, const void *sine, void *y, long tokens, long heads, long size,
                      long token_stride, long head_stride, int back) {
    BY_KIND(kind, rotate<T>((const T *)x, (const T *)cosine, (const T *)sine, (T *)y, tokens, heads, size, token_stride, head_stride,
                            back))
}

void tunesmith_softmax_forward(int kind, void *scores, long batch, long queries, long keys, long back, long window, double scale) {
    BY_KIND(kind, softmax_forward<T>((T *)scores, batch, queries, keys, back, window, scale))
}

void tunesmith_softmax_backward(int kind, void *grad, const void *weights, long batch, long queries, long keys, long back, long window,
                                double scale) {
    BY_KIND(kind, softmax_backward<T>((T *)grad, (const T *)weights, batch, queries, keys, back, window, scale))
}

void tunesmith_cross_entropy(int kind, void *logits, const void *targets, void *losses, long rows, long vocabulary, int to_grad) {
    BY_KIND(kind, cross_entropy<T>((T *)logits, (const int64_t *)targets, (Exact<T> *)losses, rows, vocabulary, to_grad))
}

}  // extern "C"
