/* The one message of a run, ready to be sent any number of times. */
#include <stddef.h>

struct wave {
    unsigned char *payload, *frames; /* as it stands on the wire; its masked frame, repeated */
    size_t payload_len, frame_len, length; /* the last one of all frames */
};

void make_wave(struct wave *wave, const char *file, size_t size, int text, int deflate);
