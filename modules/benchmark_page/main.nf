include { quoted ; words } from '../shell'

// All scores in one table, and the paper's figures with every method
process BENCHMARK_PAGE {
    label 'process_low'
    label 'image_cpu'

    input:
    path scores, stageAs: 'scores/*' // [ folder ]
    path plans, stageAs: 'plans/?/*' // one a task of SPLIT: what could run
    val methods                      // those asked for
    val dataset

    output:
    path 'benchmark', emit: folder   // scores.tsv, benchmark.html
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    def planned = (plans instanceof List ? plans : [plans]).collect { plan -> "--plan=${quoted(plan)}" }.join(' ')
    """
    multivi-nf-benchmark-page --resources benchmark_page.resources.json ${words(scores)} ${planned} \\
        --methods=${quoted(methods)} --dataset=${quoted(dataset)} --output=benchmark
    """

    stub:
    """
    mkdir benchmark
    touch benchmark/scores.tsv benchmark/benchmark.html
    echo '{}' > benchmark_page.resources.json
    """
}
