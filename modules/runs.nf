/*
 * A run of the benchmark workflow: one method, or one variant of it, on one split.
 */

// task folder -> [ [ run, folder ] ]; run: [ id, name: of its files, method, variant, options, target ]
def runs_of(folder) {
    def task = new groovy.json.JsonSlurper().parse(folder.resolve('task.json').toFile())
    def same = [target: task.target, hidden: task.hidden, seed: task.seed]
    def plain = task.methods.collect { method -> [method: method, variant: '', options: [seed: task.seed]] }
    def varied = task.variants.collect { name, options -> [method: name, variant: name, options: options + [seed: task.seed]] }
    def users = 'scvi-multivi' in task.methods && task.experiment == 1 && !task.name?.endsWith('shuffled pairs') ? [[method: 'scvi-multivi', variant: 'defaults', options: [:]]] : []
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

// The settings of a benchmark's models: nothing that would tell them types, or add what no score looks at
def blind(settings) {
    return settings + [
        contrasts: null, reference: null, marker_sets: null, tss: null, gtf: null, genome: null, labels: null, labels_weight: null,
        impute_features: 'all',
    ]
}
