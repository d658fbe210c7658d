/* Doubles into the float dtypes of adapters, and back. */
#include <math.h>
#include <string.h>

#include "adapter.h"

static void put(uint8_t *out, uint64_t bits, int bytes) {
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
    uint64_t bits, fraction, rest;
    uint32_t sign, half;
    int exponent;
    memcpy(&bits, &x, sizeof bits);
    sign = (uint32_t)(bits >> 48 & 0x8000);
    exponent = (int)(bits >> 52 & 2047) - 1023;
    fraction = bits & (((uint64_t)1 << 52) - 1);
    if (exponent > 15) return (uint16_t)(sign | (exponent == 1024 && fraction ? 0x7E00 : 0x7C00));
    if (exponent < -25) return (uint16_t)sign;
    if (exponent < -14) {
        int shift = 42 + (-14 - exponent);
        fraction |= (uint64_t)1 << 52;
        rest = fraction & (((uint64_t)1 << shift) - 1);
        half = (uint32_t)(fraction >> shift);
        half += rest > (uint64_t)1 << (shift - 1) || (rest == (uint64_t)1 << (shift - 1) && half & 1);
        return (uint16_t)(sign | half);
    }
    rest = fraction & (((uint64_t)1 << 42) - 1);
    half = (uint32_t)(exponent + 15) << 10 | (uint32_t)(fraction >> 42);
    half += rest > (uint64_t)1 << 41 || (rest == (uint64_t)1 << 41 && half & 1);
    return (uint16_t)(sign | half);
}

int hy_store(int dtype, const double *values, size_t count, uint8_t *out) {
    size_t i;
    int fine = 1;
    for (i = 0; i < count; i++) {
        if (dtype == HY_F16) {
            uint16_t half = half_of(values[i]);
            fine &= (half & 0x7C00) != 0x7C00;
            put(out + 2 * i, half, 2);
        } else if (dtype == HY_F64) {
            uint64_t bits;
            memcpy(&bits, values + i, sizeof bits);
            fine &= values[i] - values[i] == 0;
            put(out + 8 * i, bits, 8);
        } else {
            uint32_t bits = bits_of((float)values[i]);
            if (dtype == HY_BF16) {
                /* The upper half of a float; half a unit, and the last bit for ties, rounds. */
                bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
                fine &= (bits & 0x7F80) != 0x7F80;
                put(out + 2 * i, bits, 2);
            } else {
                fine &= (bits & 0x7F800000) != 0x7F800000;
                put(out + 4 * i, bits, 4);
            }
        }
    }
    return fine;
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
    hy_store(dtype, values, count, out);
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
