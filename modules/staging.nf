/*
 * Names that Nextflow's own staging cannot carry: it leaves $, * and ? unquoted, so that the shell may read them.
 */

// Entries of a folder that one part of a path fits, as a shell has it
def fitting(folder, part) {
    def form = part.collect { sign -> sign == '*' ? '.*' : sign == '?' ? '.' : java.util.regex.Pattern.quote(sign) }.join()
    return (folder.toFile().list() ?: []).findAll { name -> name ==~ form && (part.startsWith('.') || !name.startsWith('.')) }
        .collect { name -> folder.resolve(name) }
}

// Everything that is there and that a path fits
def fits(text) {
    def root = java.nio.file.Paths.get('/')
    return text.tokenize('/').inject([root]) { found, part ->
        found.collectMany { folder -> part =~ /[*?]/ ? fitting(folder, part) : [folder.resolve(part)] }
    }.findAll { path -> path.toFile().exists() }
}

// What would go wrong with a path, in words; empty if nothing would: a * that fits nothing but itself stays what it is
def unstageable(path) {
    def text = path.toString()
    if (text =~ /\$[A-Za-z0-9_@*#?$-]/) {
        return 'holds a $ that a shell takes for a variable'
    }
    def others = text =~ /[*?]/ && text.startsWith('/') ? fits(text).findAll { found -> found.toString() != text } : []
    return others ? "holds one of the characters * ?, and so means ${others[0]} too" : ''
}
