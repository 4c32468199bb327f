/*
 * The door: parameters are described once, in nextflow_schema.json, and cast and checked once, here.
 * No plugin: `plugins {}` breaks every run without network.
 */

include { three_parts } from './messages'
include { unstageable } from './staging'

// Institutional configs set these; they mean nothing here and are let pass. Not max_\w+: max_epoch is a misspelling.
def tolerated() { /^(config_profile_\w+|custom_config_\w+|max_memory|max_cpus|max_time|igenomes_\w+)$/ }

// -> [ [title: String, properties: [name: property], required: [name]] ], in the order of the schema
def parameter_groups() {
    def schema = new groovy.json.JsonSlurper().parse(file("${projectDir}/nextflow_schema.json").toFile())
    return schema.allOf.collect { reference -> schema.get('$defs').get(reference.get('$ref').tokenize('/').last()) }
}

// -> [name: property] of every parameter
def known_parameters() {
    return parameter_groups().collectEntries { group -> group.properties }
}

/*
 * Cast and check all parameters.
 *
 * given   // Map: `params`; values may be typed already (25.04 turns 007 into 7) or strings (later versions)
 * returns // Map: every known parameter, of its type
 * stops with all problems at once: unknown name, type, choice, range, missing value, missing file
 */
def checked_parameters(given) {
    def known    = known_parameters()
    def required = parameter_groups().collectMany { group -> group.required ?: [] }
    def unknown  = given.keySet().findAll { name -> !known.containsKey(name) && !(name ==~ tolerated()) }
    def typed    = unknown.intersect(given_at_launch())
    def problems = typed.collect { name -> unknown_parameter(name, known.keySet()) }
    def ignored  = unknown - typed
    if (ignored) {
        log.warn("Parameters set by a config file and known to nothing here: ${ignored.sort().join(', ')}")
    }

    def checked = known.collectEntries { name, property ->
        def value   = cast(given[name], property)
        def problem = value == null ? null : wrong(name, value, given[name], property)
        if (problem) {
            problems << problem
        }
        if (value == null && required.contains(name)) {
            problems << three_parts("--${name} is not given", property.description, "add --${name}${example(name)}")
        }
        [(name): value]
    }
    problems.addAll(problems ? [] : together(checked))
    if (problems) {
        error(problems.join('\n\n') + "\n\n`nextflow run . --help` lists every parameter.")
    }
    return checked
}

// What no single value shows: parameters that do not go together
def together(settings) {
    def architecture = [
        'n_latent', 'n_hidden', 'n_layers', 'rna_likelihood', 'atac_likelihood', 'dispersion', 'fusion', 'alignment', 'alignment_weight',
        'adversary', 'adversary_weight', 'cross_reconstruction', 'batch_integration', 'kl_warmup', 'categorical_covariates', 'continuous_covariates',
        'labels_weight', 'model_compat',
    ].findAll { name -> settings[name] != null }
    def rules = [
        [settings.impute.tokenize(',').contains('atac') && !settings.impute_features, "--impute ${settings.impute} without --impute_features",
            'all peaks of all cells with three error bars may not fit on any disk', 'name peaks in a file with --impute_features FILE, or say --impute_features all'],
        [settings.impute_features && settings.impute_features != 'all' && !file(settings.impute_features, glob: false).exists(), "--impute_features: there is no '${settings.impute_features}'",
            'it lists the features to impute, one a line', 'give a path that exists, or all'],
        [settings.atac_min_tsse && !settings.tss && !settings.gtf && !(settings.genome in ['hg38', 'hg19', 'mm10']),
            "--atac_min_tsse ${settings.atac_min_tsse} without transcription start sites", 'TSS enrichment cannot be computed without them',
            'give --tss BED or --gtf GTF (of hg38, hg19 and mm10 --genome knows them), or leave --atac_min_tsse out'],
        [settings.peak_width && settings.peak_width % 2 == 0, "--peak_width is ${settings.peak_width}, which is even",
            'a peak has its summit in its middle', "give an odd width such as ${(settings.peak_width ?: 0) + 1}"],
        [settings.labels_weight && !settings.labels, "--labels_weight ${settings.labels_weight} without --labels",
            'no column says which labels guide training', 'name the column with --labels, or leave --labels_weight out'],
        [(settings.n_nodes as int) > 1 && !workflow.profile.tokenize(',').contains('slurm'), "--n_nodes ${settings.n_nodes} without -profile slurm",
            'only that scheduler is asked for several nodes, and starts the training on each', 'add slurm to -profile, or use one node'],
        [settings.reference && settings.controls, '--controls with --reference',
            'its short runs would be models of another architecture and training', 'leave one of the two out'],
        [settings.reference && architecture, "${architecture.collect { name -> '--' + name }.join(', ')} with --reference",
            'the architecture is that of the reference', 'leave them out, or train a new model without --reference'],
    ]
    def arrays = ['slurm', 'pbspro', 'lsf', 'awsbatch', 'googlebatch'].any { name -> workflow.profile.tokenize(',').contains(name) }
    def blank  = [arrays && workflow.workDir.toString() =~ /\s/, "the work directory '${workflow.workDir}' has a blank in its path",
        'job arrays of this Nextflow leave the path unquoted, so that every task of an array would fail', 'name another one with -work-dir']
    def signs  = [work: workflow.workDir, launch: workflow.launchDir, pipeline: workflow.projectDir].collect { name, place ->
        [unstageable(place), "the ${name} directory '${place}' ${unstageable(place)}", "Nextflow's own scripts leave it unquoted, so that every task would fail",
            'run in a folder without it']
    }
    return (rules + [blank] + signs).findAll { rule -> rule[0] }.collect { rule -> three_parts(rule[1], rule[2], rule[3]) }
}

// The names given on the command line or in a -params-file: those that the user typed
def given_at_launch() {
    def command = workflow.commandLine
    def options = (command =~ /(?:^|\s)'?--([A-Za-z][\w.-]*)/).collect { found -> found[1] }
    def named   = (command =~ /\s-params-file[\s=](?:'([^']+)'|(\S+))/).collect { found -> found[1] ?: found[2] }
    def inside  = named.collectMany { name -> new org.yaml.snakeyaml.Yaml().load(file(name).text)?.keySet() ?: [] }
    def kebab   = options.collect { name -> name.replaceAll(/-(\w)/) { found -> found[1].toUpperCase() } }
    return (options + kebab + inside).toSet()
}

// A value of the property's type, or the value as it is where it cannot be read as that type
def cast(value, property) {
    if (value == null || value.toString() == '') {
        return null
    }
    def text = value.toString()
    if (property.type == 'boolean') {
        return text.toLowerCase() in ['true', 'false'] ? text.toLowerCase() == 'true' : value
    }
    if (property.type == 'integer') {
        return text ==~ /-?\d{1,18}(\.0+)?/ ? text.toBigDecimal().longValue() : value
    }
    if (property.type == 'number') {
        return text ==~ /-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?/ ? text.toBigDecimal() : value
    }
    return value instanceof Boolean ? value : text
}

// The three-part message for a value that does not fit its property; null where it fits
def wrong(name, value, raw, property) {
    def fits = property.type == 'boolean' ? value instanceof Boolean
        : property.type == 'integer' ? value instanceof Long
        : property.type == 'number' ? value instanceof BigDecimal
        : value instanceof String
    def kind   = property.type == 'integer' ? 'a whole number' : property.type == 'number' ? 'a number' : property.type == 'boolean' ? 'true or false' : 'a text'
    def choice = property.get('enum') ? "one of ${property.get('enum').join(', ')}" : property.errorMessage ?: kind
    def range  = bounds(property)
    def about  = property.description
    if (!fits) {
        def said = raw instanceof Boolean ? "--${name} has no value" : "--${name} is '${raw}', which is not ${kind}"
        return three_parts(said, about, "give ${choice}${range ? ', ' + range : ''}")
    }
    if ((property.get('enum') && !(value in property.get('enum'))) || (property.pattern && !(value ==~ property.pattern))) {
        return three_parts("--${name} is '${raw}', which is not ${choice}", about, "give ${choice}")
    }
    if (outside(value, property)) {
        return three_parts("--${name} is ${raw}, which is not ${range}", about, "give ${kind} ${range}")
    }
    def trouble = property.exists ? unstageable(file(value, glob: false)) : ''
    if (trouble) {
        return three_parts("--${name} is '${raw}', which ${trouble}", "Nextflow's own scripts leave it unquoted, so that no file, or another, would be found",
            'rename the file or its folder (a link will do)')
    }
    if (property.exists && !file(value, glob: false).exists()) {
        return three_parts("--${name}: there is no '${raw}'", about, 'give a path that exists; a relative one starts at the folder of the launch')
    }
    return null
}

def outside(value, property) {
    return (property.minimum != null && value < property.minimum) || (property.maximum != null && value > property.maximum) ||
        (property.exclusiveMinimum != null && value <= property.exclusiveMinimum) ||
        (property.exclusiveMaximum != null && value >= property.exclusiveMaximum)
}

def bounds(property) {
    def parts = [minimum: 'at least', maximum: 'at most', exclusiveMinimum: 'above', exclusiveMaximum: 'below']
        .findAll { key, _words -> property.get(key) != null }
        .collect { key, words -> "${words} ${property.get(key)}" }
    return parts.join(' and ')
}

def unknown_parameter(name, known) {
    def nearest = known.min { other -> distance(plain(name), plain(other)) }
    return three_parts("--${name} is not a parameter", 'it would have no effect', "the nearest name is --${nearest}")
}

def plain(text) {
    return text.toLowerCase().replaceAll(/[^a-z0-9]/, '')
}

// Levenshtein's edit distance
def distance(one, other) {
    def first = (0..other.size()).toList()
    return one.toList().withIndex().inject(first) { row, pair ->
        other.toList().withIndex().inject([pair[1] + 1]) { now, next ->
            def cost = pair[0] == next[0] ? 0 : 1
            now + [[now.last() + 1, row[next[1] + 1] + 1, row[next[1]] + cost].min()]
        }
    }.last()
}

def example(name) {
    return name == 'input' ? ' samples.csv (`make run` makes an example)' : ' results'
}

// --help: every parameter in its group
def help_text() {
    def lines = parameter_groups().collectMany { group ->
        def shown = group.properties.findAll { _name, property -> !property.hidden }
        def rows  = shown.collect { name, property ->
            def choices = property.get('enum') ? " {${property.get('enum').join(', ')}}" : bounds(property) ? " (${bounds(property)})" : ''
            def set     = property.default == null ? '' : " [${property.default}]"
            def more    = property.help_text ? " ${property.help_text}" : ''
            "  --${name.padRight(24)} ${property.type.padRight(8)} ${property.description}${more}${choices}${set}"
        }
        ["\n${group.title}"] + rows
    }
    return "nextflow run . --input samples.csv --outdir results [-profile podman,slurm,gpu]\n${lines.join('\n')}\n"
}
