target_sources(david_engine PRIVATE graph/arena.c graph/backward.c graph/backward_plan.c)
