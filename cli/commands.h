/* commands.h - the subcommands of david: argv[0] is the subcommand's name; they return the exit
 * code (0, 1, 2). */
#ifndef DAVID_CLI_COMMANDS_H
#define DAVID_CLI_COMMANDS_H

int cmd_serve(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_degrade(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_forward(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_sample(int argc, char **argv);

#endif
