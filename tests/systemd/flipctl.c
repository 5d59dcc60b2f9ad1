/* As much of flipctl as a unit's ExecReload= needs: flipctl --socket PATH upgrade. */
#include <shellflip.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    char address[256];

    if (argc != 4 || strcmp(argv[1], "--socket") != 0 || strcmp(argv[3], "upgrade") != 0)
        return 2;
    snprintf(address, sizeof address, "unix://%s", argv[2]);
    int rc = flip_control(address, FLIP_REQUEST_UPGRADE, 120000);
    if (rc < 0)
        fprintf(stderr, "flipctl: %s\n", flip_last_error());
    return rc < 0;
}
