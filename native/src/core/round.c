/* Doubles into the float dtypes of adapters, and back. */
#include <math.h>
#include <string.h>

#include "factors.h"

static HY_INLINE void put(uint8_t *out, uint64_t bits, int bytes) {
    int i;
    for (i = 0; i < bytes; i++) out[i] = (uint8_t)(bits >> 8 * i);
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Rounded once, to nearest, ties to even; what is too large becomes infinity. */
static uint16_t half_of(double x) {
    const uint64_t least = (uint64_t)(1023 - 14) << 52, most = (uint64_t)(1023 + 16) << 52;
    uint64_t bits, fraction, rest, half;
    uint32_t sign;
    int shift;
    memcpy(&bits, &x, sizeof bits);
    sign = (uint32_t)(bits >> 48 & 0x8000);
    bits &= ~((uint64_t)1 << 63);
    /* Half a unit less one, and the last bit for ties: the carry runs into the exponent. */
    if (bits >= least && bits < most)
        return (uint16_t)(sign | ((bits - ((uint64_t)(1023 - 15) << 52) + ((uint64_t)1 << 41) - 1 +
                                   (bits >> 42 & 1)) >> 42));
    if (bits >= most) return (uint16_t)(sign | (bits > (uint64_t)2047 << 52 ? 0x7E00 : 0x7C00));
    shift = 42 + 1023 - 14 - (int)(bits >> 52);
    if (shift > 53) return (uint16_t)sign;
    fraction = (bits & (((uint64_t)1 << 52) - 1)) | (uint64_t)1 << 52;
    rest = fraction & (((uint64_t)1 << shift) - 1);
    half = fraction >> shift;
    half += rest > (uint64_t)1 << (shift - 1) || (rest == (uint64_t)1 << (shift - 1) && half & 1);
    return (uint16_t)(sign | half);
}

/* The bits of a number in a dtype; *fine goes to 0 if it is finite and they are not. */
static HY_INLINE uint64_t bits_in(int dtype, double value, int *fine) {
    uint64_t bits;
    if (dtype == HY_F16) {
        bits = half_of(value);
        *fine &= (bits & 0x7C00) != 0x7C00;
    } else if (dtype == HY_F64) {
        memcpy(&bits, &value, sizeof bits);
        *fine &= value - value == 0;
    } else if (dtype == HY_BF16) {
        /* The upper half of a float; half a unit, and the last bit for ties, rounds. */
        uint32_t single = bits_of((float)value);
        bits = (uint16_t)((single + 0x7FFF + (single >> 16 & 1)) >> 16);
        *fine &= (bits & 0x7F80) != 0x7F80;
    } else {
        bits = bits_of((float)value);
        *fine &= (bits & 0x7F800000) != 0x7F800000;
    }
    return bits;
}

static HY_INLINE int store(int dtype, int size, const double *values, size_t count, size_t stride,
                           uint8_t *out) {
    int fine = 1;
    for (; count; count--, values++, out += (size_t)size * stride)
        put(out, bits_in(dtype, *values, &fine), size);
    return fine;
}

int hy_store(int dtype, const double *values, size_t count, size_t stride, uint8_t *out) {
    /* What adapters come in is worth a loop of its own. */
    if (dtype == HY_F16) return store(HY_F16, 2, values, count, stride, out);
    if (dtype == HY_F32) return store(HY_F32, 4, values, count, stride, out);
    return store(dtype, HY_DTYPE_BYTES[dtype], values, count, stride, out);
}

void hy_store_clipped(int dtype, double *values, size_t count, uint8_t *out) {
    double most = dtype == HY_F16    ? 65504.0
                  : dtype == HY_BF16 ? ldexp(255.0, 120)
                  : dtype == HY_F32  ? ldexp(16777215.0, 104)
                                     : HUGE_VAL;
    size_t i;
    if (dtype != HY_F64)
        for (i = 0; i < count; i++) {
            if (values[i] > most) values[i] = most;
            if (values[i] < -most) values[i] = -most;
        }
    hy_store(dtype, values, count, 1, out);
}

double hy_load(int dtype, const uint8_t *data) {
    uint64_t bits = 0;
    float single;
    uint32_t word;
    int i, sign, exponent, fraction;
    for (i = 0; i < HY_DTYPE_BYTES[dtype]; i++) bits |= (uint64_t)data[i] << 8 * i;
    switch (dtype) {
        case HY_F64: {
            double value;
            memcpy(&value, &bits, sizeof value);
            return (float)value;
        }
        case HY_BF16: bits <<= 16; /* fall through */
        case HY_F32:
            word = (uint32_t)bits;
            memcpy(&single, &word, sizeof single);
            return single;
        case HY_F8_E5M2: bits <<= 8; /* fall through */
        case HY_F16:
            sign = bits & 0x8000 ? -1 : 1;
            exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
            if (exponent == 31) return fraction ? NAN : sign * HUGE_VAL;
            return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
        default: /* F8_E4M3 */
            sign = bits & 0x80 ? -1 : 1;
            exponent = (int)(bits >> 3 & 15), fraction = (int)(bits & 7);
            if ((bits & 127) == 127) return NAN;
            return sign * (exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9));
    }
}

int hy_dtype_of(hydra_dtype asked, int own) {
    switch (asked) {
        case HYDRA_F16: return HY_F16;
        case HYDRA_BF16: return HY_BF16;
        case HYDRA_F32: return HY_F32;
        case HYDRA_F64: return HY_F64;
        default: break;
    }
    return own == HY_F16 || own == HY_BF16 || own == HY_F32 || own == HY_F64 ? own : HY_BF16;
}
