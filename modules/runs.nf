/*
 * A run of the benchmark workflow: one method, or one variant of it, on one split.
 */

// [ labels of one split each ]: experiment and seed, of experiment 1 also the rate; what no draw decides is made once
def units_of(settings) {
    def seeds = settings.seeds.tokenize(',').unique()
    return settings.experiments.tokenize(',').unique().collectMany { experiment ->
        (experiment == '2' ? seeds.take(1) : seeds).collectMany { seed ->
            def unit = [experiments: experiment, seeds: seed]
            experiment == '1' ? settings.unpaired_rates.tokenize(',').unique().collect { rate -> unit + [unpaired_rates: rate] } : [unit]
        }
    }
}

// Whether --methods names a method, or all of them: those whose environment has to be made by hand only by their name
def asked(methods, name) {
    def names = methods.tokenize(',')
    return name in names || ('all' in names && name != 'midas')
}

// task folder -> [ [ run, folder ] ] of the methods asked for; run: [ id, name: of its files, method, variant, options, target ]
def runs_of(folder, methods) {
    def task = new groovy.json.JsonSlurper().parse(folder.resolve('task.json').toFile())
    if (task.name?.endsWith('shuffled pairs') && !asked(methods, 'shuffled')) {
        return []
    }
    def same = [target: task.target, hidden: task.hidden, seed: task.seed]
    def plain = task.methods.findAll { method -> asked(methods, method) }.collect { method -> [method: method, variant: '', options: [seed: task.seed]] }
    def varied = (asked(methods, 'ablation') ? task.variants : [:]).collect { name, options -> [method: name, variant: name, options: options + [seed: task.seed]] }
    def users = asked(methods, 'scvi-multivi') && task.defaults ? [[method: 'scvi-multivi', variant: 'defaults', options: [:]]] : []
    return (plain + varied + users).collect { run ->
        def word = "${run.method} ${run.variant == run.method ? '' : run.variant}".trim()
        [run + same + [id: "${folder.name} ${word}".toString(), name: "${folder.name}.${word.replaceAll(/[^A-Za-z0-9]+/, '_')}".toString()], folder]
    }
}

// Ours, or a variant of ours
def of_ours(run) {
    return run.method.startsWith('multivi-nf')
}

// [ run, modality, list of the cells that lack it ] of a run's split
def hidden_of(run, folder) {
    return run.hidden.collect { modality -> [run, modality, folder.resolve("hidden/${modality}.txt")] }
}

// The type that lacks a modality against the rest, in the cells that lack it
def contrast_of(run) {
    return [contrast: 'held_out', modality: run.hidden[0], groupby: 'label', target: run.target, reference: 'rest', cells: 'imputed']
}

// The settings of a benchmark's models: nothing that would tell them types, or add what no score looks at. Values are
// imputed as the cell's own batch would have shown them, since they are scored against its counts
def blind(settings) {
    return settings + [
        contrasts: null, reference: null, marker_sets: null, tss: null, gtf: null, genome: null, labels: null, labels_weight: null,
        impute_features: 'all', impute_batch: settings.impute_batch ?: 'own',
    ]
}
