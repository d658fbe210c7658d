/* Runs a fuzz target on the files that are its arguments. */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

int main(int count, char **paths) {
    enum { MOST = 1 << 20 };
    static uint8_t data[MOST];
    int i;
    for (i = 1; i < count; i++) {
        FILE *file = fopen(paths[i], "rb");
        if (!file) {
            perror(paths[i]);
            return 2;
        }
        LLVMFuzzerTestOneInput(data, fread(data, 1, MOST, file));
        fclose(file);
    }
    printf("%d inputs\n", count - 1);
    return count < 2;
}
