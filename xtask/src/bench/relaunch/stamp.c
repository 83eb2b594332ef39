/* stamp LOG [PROGRAM ARGUMENTS...]: appends its process id and the time to LOG as its first act, then becomes PROGRAM,
 * or waits to be killed. Static, so that no loader stands between the start of the process and the stamp. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (count < 2) {
		return 2;
	}
	char line[64];
	int length = snprintf(line, sizeof line, "%d %lld.%09ld\n", (int)getpid(), (long long)now.tv_sec, now.tv_nsec);
	int log = open(words[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log < 0 || write(log, line, (size_t)length) != length) {
		return 3;
	}
	close(log);
	if (count > 2) {
		execv(words[2], words + 2);
		return 4;
	}
	for (;;) {
		pause();
	}
}
