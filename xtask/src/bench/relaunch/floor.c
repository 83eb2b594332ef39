/* floor PROGRAM ARGUMENTS...: the least that a supervisor can be. Starts, waits for the end, starts again. */
#include <spawn.h>
#include <stddef.h>
#include <sys/wait.h>

extern char **environ;

int main(int count, char **words) {
	if (count < 2) {
		return 2;
	}
	for (;;) {
		pid_t child;
		if (posix_spawn(&child, words[1], NULL, NULL, words + 1, environ) != 0) {
			return 3;
		}
		while (waitpid(child, NULL, 0) != child) {
		}
	}
}
