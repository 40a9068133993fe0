target_sources(david_engine PRIVATE graph/graph.c)
