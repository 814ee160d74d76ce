/* libopus in a C loop, on one thread: what a decode costs without Python.
 *
 * loop LIBRARY PACKETS KIND AT_ONCE APART SECONDS
 *
 * PACKETS is a file of uint32 lengths and packets. KIND is "packet": the next packet of the next of
 * AT_ONCE streams, of which each begins APART packets behind the one before; or "utterance": all
 * packets, with a decoder of their own. Writes the begin and end of each call to stdout, as doubles,
 * CLOCK_MONOTONIC seconds; with SECONDS 0 the PCM of all packets instead, float32.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RATE = 16000, MAX_SAMPLES = RATE * 120 / 1000, MAX_PACKETS = 4096 };

typedef struct { const unsigned char *data; int32_t size; } Packet;

static void *(*create)(int32_t, int, int *);
static void (*destroy)(void *);
static int (*decode)(void *, const unsigned char *, int32_t, float *, int, int);

static Packet packets[MAX_PACKETS];
static int packet_count;
static float pcm[MAX_SAMPLES];

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) fail(dlerror());
    *(void **)&create = dlsym(library, "opus_decoder_create");
    *(void **)&destroy = dlsym(library, "opus_decoder_destroy");
    *(void **)&decode = dlsym(library, "opus_decode_float");
    if (!create || !destroy || !decode) fail("not a libopus");
}

static void read_packets(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t size;
    if (!file) fail("cannot read the packets");
    while (packet_count < MAX_PACKETS && fread(&size, sizeof size, 1, file) == 1) {
        unsigned char *data = malloc(size + 1);
        if (!data || fread(data, 1, size, file) != size) fail("the packets are cut short");
        packets[packet_count++] = (Packet){data, (int32_t)size};
    }
    fclose(file);
    if (!packet_count) fail("no packets");
}

static int decode_packet(void *decoder, int number) {
    int count = decode(decoder, packets[number].data, packets[number].size, pcm, MAX_SAMPLES, 0);
    if (count < 0) fail("libopus refused a packet");
    return count;
}

static void note(double began, double ended) {
    double pair[2] = {began, ended};
    fwrite(pair, sizeof pair, 1, stdout);
}

static void utterance(int write_pcm) {
    int error;
    void *decoder = create(RATE, 1, &error);
    for (int number = 0; number < packet_count; number++) {
        int count = decode_packet(decoder, number);
        if (write_pcm) fwrite(pcm, sizeof *pcm, count, stdout);
    }
    destroy(decoder);
}

static void run_utterances(double stop) {
    double began, ended;
    do {
        began = now();
        utterance(0);
        ended = now();
        note(began, ended);
    } while (ended <= stop);
}

static void run_streams(int streams, int apart, double stop) {
    void **decoders = calloc(streams, sizeof *decoders);
    double began, ended = 0;
    int error;
    if (!decoders) fail("no memory");
    for (int stream = 0; stream < streams; stream++) decoders[stream] = create(RATE, 1, &error);
    for (int number = 0; ended <= stop; number = (number + 1) % packet_count)
        for (int stream = 0; stream < streams; stream++) {
            began = now();
            decode_packet(decoders[stream], (number + stream * apart) % packet_count);
            ended = now();
            note(began, ended);
        }
    for (int stream = 0; stream < streams; stream++) destroy(decoders[stream]);
    free(decoders);
}

int main(int count, char **words) {
    if (count != 7) fail("loop LIBRARY PACKETS KIND AT_ONCE APART SECONDS");
    double seconds = atof(words[6]);
    load(words[1]);
    read_packets(words[2]);
    if (seconds <= 0) utterance(1);
    else if (!strcmp(words[3], "utterance")) run_utterances(now() + seconds);
    else run_streams(atoi(words[4]), atoi(words[5]), now() + seconds);
    return fflush(stdout) ? 1 : 0;
}
