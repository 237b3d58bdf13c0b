// SPDX-License-Identifier: Apache-2.0
// Owns: turning files into C arrays at build time: embed OUT.c FILE... gives for page.js the bytes in
// tc_embedded_page_js and their number in tc_embedded_page_js_bytes.
#include <ctype.h>
#include <stdio.h>
#include <string.h>

static int embed(const char *path, FILE *out)
{
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    FILE *in = fopen(path, "rb");
    int c;
    unsigned long count = 0;
    if (!in) {
        perror(path);
        return 1;
    }
    fprintf(out, "const unsigned char tc_embedded_");
    for (const char *p = name; *p; p++) fputc(isalnum((unsigned char)*p) ? *p : '_', out);
    fprintf(out, "[] = {");
    for (; (c = fgetc(in)) != EOF; count++) fprintf(out, "%s%d", count ? "," : "", c);
    fprintf(out, "};\nconst unsigned long tc_embedded_");
    for (const char *p = name; *p; p++) fputc(isalnum((unsigned char)*p) ? *p : '_', out);
    fprintf(out, "_bytes = %lu;\n", count);
    int failed = ferror(in) || count == 0;
    fclose(in);
    return failed;
}

int main(int argc, char **argv)
{
    FILE *out = argc > 2 ? fopen(argv[1], "w") : NULL;
    if (!out) {
        fprintf(stderr, "usage: embed OUT FILE...\n");
        return 1;
    }
    for (int i = 2; i < argc; i++)
        if (embed(argv[i], out)) return 1;
    return fclose(out) ? 1 : 0;
}
