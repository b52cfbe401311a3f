/* What is read off while a server is under load: its CPU, its memory, how long answers took. */
#include <stdint.h>

uint64_t now(void);                       /* nanoseconds */
uint64_t server_cpu(int pid);             /* nanoseconds, of all its threads, ended ones too */
double server_user(int pid);              /* seconds of that outside the kernel, to 10 ms */
int server_sleeps(int pid);               /* its main thread waits for something to do */
long server_kb(int pid);                  /* resident */
void record_latency(uint64_t nanoseconds);
double latency_us(double quantile);
