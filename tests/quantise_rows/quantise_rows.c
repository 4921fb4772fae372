/* Quantises made-up rows by ggml's own code. Argument: the number of the type. Writes the bytes. */
#include "ggml.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 64, WIDTH = 256 };

int main(int count, char **arguments) {
    if (count != 2) return 2;
    enum ggml_type type = (enum ggml_type)atoi(arguments[1]);
    static float rows[ROWS * WIDTH];
    uint32_t state = 1;
    for (int i = 0; i < ROWS * WIDTH; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (float)(int32_t)state / 2147483648.0f;
    }
    size_t size = ROWS * ggml_row_size(type, WIDTH);
    unsigned char *bytes = calloc(1, size);
    if (bytes == NULL) return 1;
    ggml_quantize_chunk(type, rows, bytes, 0, ROWS, WIDTH, NULL);
    return fwrite(bytes, 1, size, stdout) == size ? 0 : 1;
}
