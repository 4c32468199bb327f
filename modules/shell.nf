/*
 * User text on a command line: quoted, so that the shell and the step take it as it is, whatever it holds.
 */

// 'it''s' the shell's way: everything between single quotes is literal
def quoted(value) {
    return "'" + value.toString().replace("'", "'\\''") + "'"
}

// [min_genes: 5, mad: null, keep: true] -> --min-genes='5' --keep ; one word an option, so a value may begin with a dash
def options(values) {
    def words = values.findAll { _name, value -> value != null && value != false && value != [] }.collect { name, value ->
        def option = "--${name.replace('_', '-')}"
        // Nextflow escapes the name of a staged file itself
        value == true ? option : "${option}=${value instanceof java.nio.file.Path ? value : quoted(value)}"
    }
    return words.join(' ')
}

// The settings of one step: chosen names, without the prefix that the step implies
def chosen(settings, names, prefix = '') {
    return names.collectEntries { name -> [(name - prefix): settings[name]] }
}

// Numerical libraries take the task's processors, not the machine's
def threads(cpus) {
    return "export OMP_NUM_THREADS=${cpus} OPENBLAS_NUM_THREADS=${cpus} NUMBA_NUM_THREADS=${cpus}"
}
