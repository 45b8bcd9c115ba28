//! MT-Bench: conversations of two turns, judged by a model (Zheng et al., arXiv 2306.05685).
