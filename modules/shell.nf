/*
 * User text on a command line: quoted, so that the shell and the step take it as it is, whatever it holds.
 */

// 'it''s' the shell's way: everything between single quotes is literal
def quoted(value) {
    return "'" + value.toString().replace("'", "'\\''") + "'"
}

// The staged files of an input as words: Nextflow escapes only what stands in the script itself, and not every character
def words(files) {
    return (files instanceof Collection ? files : [files]).collect { file -> quoted(file) }.join(' ')
}

// --fragments='A=fragments1/a.tsv.gz' ...: files by the names that they belong to, in one order
def named(option, names, files) {
    def list = files instanceof Collection ? files.toList() : [files]
    return names.withIndex().collect { name, index -> "--${option}=${quoted("${name}=${list[index]}")}" }.join(' ')
}

// [min_genes: 5, mad: null, keep: true] -> --min-genes='5' --keep ; one word an option, so a value may begin with a dash
def options(values) {
    def words = values.findAll { _name, value -> value != null && value != false && value != [] }.collect { name, value ->
        def option = "--${name.replace('_', '-')}"
        value == true ? option : "${option}=${quoted(value)}"
    }
    return words.join(' ')
}

// The settings of one step: chosen names, without the prefix that the step implies
def chosen(settings, names, prefix = '') {
    return names.collectEntries { name -> [(name - prefix): settings[name]] }
}

// A folder under a second name: its files are linked and not copied, where the file system of the work directory knows links
def again(folder, name) {
    return "cp -rlL ${folder} ${name} 2> /dev/null || { rm -rf ${name}; cp -rL ${folder} ${name}; }"
}

// Numerical libraries take the task's processors, not the machine's
def threads(cpus) {
    return "export OMP_NUM_THREADS=${cpus} OPENBLAS_NUM_THREADS=${cpus} NUMBA_NUM_THREADS=${cpus}"
}
