/*
 * The form of every error: what is wrong (with the value and its place), why it matters, what to do.
 */

def three_parts(what, why, remedy) {
    return "ERROR: ${what}\n  Why it matters: ${why}\n  What to do: ${remedy}"
}
