/* Loops within each other, the outermost first: how often each runs, and what it moves on by. */
struct loops {
    int count[6], from[6], to[6];
};
